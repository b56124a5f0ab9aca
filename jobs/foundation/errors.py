"""All errors that Retouch raises deliberately.

RetouchError
├── InvalidInput            the request breaks a rule; `errors` names the fields              -> HTTP 422
├── Unauthorized            the API key is missing or unknown                                -> HTTP 401
├── Forbidden               the API key does not permit the action                           -> HTTP 403
├── NotFound                the caller has no object with this id                            -> HTTP 404
├── Conflict                the state does not allow the action                              -> HTTP 409
├── TooLarge                an upload is larger than the limit                               -> HTTP 413
├── IdempotencyMismatch     the same Idempotency-Key came with another body                  -> HTTP 422
├── QuotaExceeded           a tenant's quota is used up; `retry_after_s` says when to retry  -> HTTP 429
├── Unavailable             Redis, the broker or the bucket does not answer                  -> HTTP 503
├── ConfigurationError      the settings or the catalogue are invalid; the process ends
└── EditFailure             an attempt of a job ended without a result
    ├── InputRejected       the picture is not accessible or breaks a rule of the model       fails
    ├── RequestRefused      the provider rejects the request as invalid                      fails
    ├── Filtered            the provider refuses the content                                 filtered
    ├── RateLimited         too many calls a minute, or too many in flight                   waits, uses no attempt
    ├── ModelTrouble        the cause is the account or the endpoint, not the job            parks the model
    ├── Transient           a retry may succeed                                              retried
    │   ├── InputUnavailable    the picture's server did not send it
    │   ├── OutcomeUnknown      the call was sent and no complete response came: it may be billed
    │   ├── BadResult           the response is truncated, not decodable or has a wrong size
    │   ├── DownloadFailed      the download of the provider's result failed; a retry may succeed
    │   └── StorageFailed       the bucket did not store the result
    ├── ResultGone          the provider's result has expired                                edited again
    ├── WorkerLost          the job lost its worker too often                                fails
    ├── DeadlineExceeded    `deadline_s` has passed                                          fails
    └── Interrupted         the worker stops: the job is returned to its lane                 queued
"""

from dataclasses import dataclass
from typing import ClassVar, Literal


class RetouchError(Exception):
    """The root of all errors that Retouch raises deliberately."""


@dataclass(frozen=True)
class FieldError:
    """One broken rule.

    Attributes:
        field: its name in the request, dotted if nested (`metadata.season`); "" for the whole request.
        message: one sentence: the fault and the remedy.
        code: a stable code for programs.
    """

    field: str
    message: str
    code: str = "invalid"


class InvalidInput(RetouchError):
    """The request breaks a rule; `errors` names each field."""

    def __init__(self, *errors: FieldError) -> None:
        self.errors = errors
        super().__init__("; ".join(f"{e.field}: {e.message}" if e.field else e.message for e in errors))

    @classmethod
    def of(cls, field: str, message: str, code: str = "invalid") -> "InvalidInput":
        """Create the error for one field."""
        return cls(FieldError(field, message, code))


class Unauthorized(RetouchError):
    """The API key is missing or unknown."""


class Forbidden(RetouchError):
    """The API key does not permit the action."""


class NotFound(RetouchError):
    """The caller has no object with this id."""


class Conflict(RetouchError):
    """The object's state does not allow the action."""


class TooLarge(RetouchError):
    """An upload is larger than the limit."""


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
    """The settings or the catalogue are invalid."""


class EditFailure(RetouchError):
    """An attempt of a job ended without a result.

    Attributes:
        code: a stable code for programs, shown as `error.code` of the job.
        retryable: whether a retry can succeed.
        provider_status: HTTP status of the provider's response, if there was one.
        trace_id: the provider's id of the call (`X-Trace-Id`, `x-request-id`), if it sent one.
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
    """The picture is not accessible or breaks a rule of the model."""

    code = "input_rejected"


class RequestRefused(EditFailure):
    """The provider rejects the request as invalid (400, 413, 415, 422)."""

    code = "request_refused"


class Filtered(EditFailure):
    """The provider refuses the content. A retry gets the same answer. The call may have cost money."""

    code = "content_filtered"


class RateLimited(EditFailure):
    """The provider answers 429.

    Attributes:
        scope: `rate` (starts a minute), `concurrency` (in flight) or `unknown`.
        limit: the limit that the provider named, in the unit of `scope`, if it did.
        retry_after_s: seconds that the provider asks to wait, if it did.
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
    """The cause is the account or the endpoint, not the job: the model is parked.

    `message` tells the operator what to do.
    """

    code = "model_parked"
    retryable = True


class Transient(EditFailure):
    """A retry may succeed: 408, 5xx, connection errors, timeouts."""

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
    """The picture's server did not send it."""

    code = "input_unavailable"


class OutcomeUnknown(Transient):
    """The call was sent and no complete response came: it may be billed."""

    code = "provider_timeout"


class BadResult(Transient):
    """The response is truncated, not decodable, not JSON, or a picture of a wrong size."""

    code = "bad_result"


class DownloadFailed(Transient):
    """The download of the provider's result failed. A retry downloads it again; the edit is not paid again."""

    code = "download_failed"


class StorageFailed(Transient):
    """The bucket did not store the result. A retry stores it again; the edit is not paid again."""

    code = "storage_failed"


class ResultGone(EditFailure):
    """The provider's result has expired: the job must be edited again."""

    code = "result_gone"
    retryable = True


class WorkerLost(EditFailure):
    """The job lost its worker too often."""

    code = "worker_lost"


class DeadlineExceeded(EditFailure):
    """`deadline_s` has passed."""

    code = "deadline_exceeded"


class Interrupted(EditFailure):
    """The worker stops before the job ends: the job is returned to its lane."""

    code = "interrupted"
    retryable = True
