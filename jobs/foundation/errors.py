"""Every error Retouch raises on purpose.

RetouchError
├── InvalidInput            what was submitted breaks a rule; names the fields               -> HTTP 422
├── Unauthorized            no key, or one that is not known                                 -> HTTP 401
├── Forbidden               the key is known and may not do this                             -> HTTP 403
├── NotFound                nothing of that id belongs to the caller                         -> HTTP 404
├── Conflict                the state does not allow the action                              -> HTTP 409
├── TooLarge                an upload over the limit                                         -> HTTP 413
├── IdempotencyMismatch     the same Idempotency-Key came with another body                  -> HTTP 422
├── QuotaExceeded           a tenant's quota is used up; `retry_after_s` says for how long   -> HTTP 429
├── Unavailable             Redis, the broker or the bucket does not answer                  -> HTTP 503
├── ConfigurationError      settings or catalogue that cannot be used; the process ends
└── EditFailure             an attempt of a job ended without a result
    ├── InputRejected       the picture cannot be had or breaks a rule                       fails
    ├── RequestRefused      the endpoint calls the request itself wrong                      fails
    ├── Filtered            a content refusal                                                filtered
    ├── RateLimited         too many starts, or too many in flight                           waits, costs no attempt
    ├── ModelTrouble        the account or the endpoint is at fault, not the job             parks the model
    ├── Transient           may go better another time                                       retried
    │   ├── InputUnavailable    the picture's server did not deliver
    │   ├── OutcomeUnknown      the call was sent and no answer came: it may have been billed
    │   ├── BadResult           an answer that is truncated, undecodable or of a wrong size
    │   ├── DownloadFailed      the provider's result could not be fetched, and still may be
    │   └── StorageFailed       the bucket did not take the result
    ├── ResultGone          a checkpointed result that can no longer be fetched              edited again
    ├── WorkerLost          the job lost its worker too often                                fails
    ├── DeadlineExceeded    `deadline_s` is over                                             fails
    └── Interrupted         the worker must stop: the job is handed back                     queued
"""

from dataclasses import dataclass
from typing import ClassVar, Literal


class RetouchError(Exception):
    """The root: catching it catches everything Retouch raises on purpose."""


@dataclass(frozen=True)
class FieldError:
    """One broken rule.

    Attributes:
        field: the name as the submitter wrote it, dotted where nested (`metadata.season`); "" for the whole request.
        message: what is wrong and what to do, one sentence.
        code: a stable word for programs.
    """

    field: str
    message: str
    code: str = "invalid"


class InvalidInput(RetouchError):
    """What was submitted breaks a rule; `errors` names each field."""

    def __init__(self, *errors: FieldError) -> None:
        self.errors = errors
        super().__init__("; ".join(f"{e.field}: {e.message}" if e.field else e.message for e in errors))

    @classmethod
    def of(cls, field: str, message: str, code: str = "invalid") -> "InvalidInput":
        """The common case: one field, one rule."""
        return cls(FieldError(field, message, code))


class Unauthorized(RetouchError):
    """No API key, or one that is not known."""


class Forbidden(RetouchError):
    """The key is known and may not do this."""


class NotFound(RetouchError):
    """Nothing of that id belongs to the caller."""


class Conflict(RetouchError):
    """The state of the thing does not allow the action."""


class TooLarge(RetouchError):
    """An upload over the limit."""


class IdempotencyMismatch(RetouchError):
    """The same Idempotency-Key came with another body."""


class QuotaExceeded(RetouchError):
    """A tenant's quota is used up. `retry_after_s` is the whole number of seconds to wait."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Unavailable(RetouchError):
    """Redis, the broker or the bucket does not answer."""


class ConfigurationError(RetouchError):
    """Settings or a catalogue that cannot be used."""


class EditFailure(RetouchError):
    """An attempt of a job ended without a result.

    Attributes:
        code: a stable word for programs, shown as `error.code` of the job.
        retryable: whether trying again can help.
        provider_status: HTTP status of the provider's answer, if there was one.
        trace_id: the provider's own name for the call (`X-Trace-Id`, `x-request-id`), if it gave one.
        maybe_billed: the provider may have charged for this call.
    """

    code: str = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        provider_status: int | None = None,
        trace_id: str | None = None,
        maybe_billed: bool = False,
    ) -> None:
        self.message = message
        if code is not None:
            self.code = code
        self.provider_status = provider_status
        self.trace_id = trace_id
        self.maybe_billed = maybe_billed
        super().__init__(message)


class InputRejected(EditFailure):
    """The picture cannot be had or breaks a rule of the model."""

    code = "input_rejected"


class RequestRefused(EditFailure):
    """The endpoint calls the request itself wrong (400, 413, 415, 422)."""

    code = "request_refused"


class Filtered(EditFailure):
    """A content refusal: deterministic, it may have cost money."""

    code = "content_filtered"


class RateLimited(EditFailure):
    """The endpoint says it is too much (429).

    Attributes:
        scope: `rate` (starts a minute), `concurrency` (in flight) or `unknown`.
        limit: the limit the endpoint named, in its scope's unit, if it did.
        retry_after_s: seconds the endpoint asks to wait, if it did.
    """

    code = "rate_limited"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        scope: Literal["rate", "concurrency", "unknown"] = "unknown",
        limit: int | None = None,
        retry_after_s: float | None = None,
        provider_status: int | None = 429,
        trace_id: str | None = None,
    ) -> None:
        self.scope = scope
        self.limit = limit
        self.retry_after_s = retry_after_s
        super().__init__(message, provider_status=provider_status, trace_id=trace_id)


class ModelTrouble(EditFailure):
    """The account or the endpoint is at fault, not the job: the model is parked.

    `message` tells the operator the way out.
    """

    code = "model_parked"
    retryable = True


class Transient(EditFailure):
    """May go better another time: 408, 5xx, connection faults, timeouts."""

    code = "provider_unavailable"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        code: str | None = None,
        provider_status: int | None = None,
        trace_id: str | None = None,
        maybe_billed: bool = False,
    ) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(
            message, code=code, provider_status=provider_status, trace_id=trace_id, maybe_billed=maybe_billed
        )


class InputUnavailable(Transient):
    """The picture's server did not deliver it this time."""

    code = "input_unavailable"


class OutcomeUnknown(Transient):
    """The call was sent and no whole answer came: it may have been billed."""

    code = "provider_timeout"


class BadResult(Transient):
    """An answer that is truncated, undecodable, not JSON, or a picture of a wrong size."""

    code = "bad_result"


class DownloadFailed(Transient):
    """The provider's result could not be fetched, and still may be: the edit is not bought again."""

    code = "download_failed"


class StorageFailed(Transient):
    """The bucket did not take the result; the edit is not bought again."""

    code = "storage_failed"


class ResultGone(EditFailure):
    """A checkpointed result that can no longer be fetched: the job must be edited again."""

    code = "result_gone"
    retryable = True


class WorkerLost(EditFailure):
    """The job lost its worker too often."""

    code = "worker_lost"


class DeadlineExceeded(EditFailure):
    """`deadline_s` is over."""

    code = "deadline_exceeded"


class Interrupted(EditFailure):
    """The worker must stop before the job is done: the job is handed back unharmed."""

    code = "interrupted"
    retryable = True
