"""The ends of an attempt: one constructor for each transition out of `running`. The planner writes them."""

from dataclasses import dataclass
from typing import Literal, Self

from jobs.foundation.errors import EditFailure
from jobs.foundation.job_states import State
from jobs.records.job_models import JobError, Outcome, Output


@dataclass(frozen=True)
class Signal:
    """What an attempt shows about its model's endpoint.

    Attributes:
        kind: `ok`: it works; `rate` or `concurrency`: it refused a call because of this limit; `trouble`: it failed;
            `park`: it or its account is at fault.
        limit: the limit in its answer: starts a minute (`rate`) or calls in flight (`concurrency`).
        retry_after_ms: the pause that it asked for.
        code, reason: of a park or trouble, for operators.
    """

    kind: Literal["ok", "rate", "concurrency", "trouble", "park"]
    limit: int | None = None
    retry_after_ms: int | None = None
    code: str = ""
    reason: str = ""


OK = Signal("ok")


@dataclass(frozen=True)
class Settlement:
    """The end of one attempt.

    Attributes:
        to: the job's next state.
        outcome: of the attempt, for its log.
        output: of `succeeded`.
        error: of `filtered` and `failed`.
        message: for the log.
        delay_ms: length of the state `waiting`.
        counts: whether the attempt uses up a try.
        signal: for the model's window, pace and park.
        drop_checkpoint: whether the recorded answer is deleted.
        trace_id: the provider's name for the call.
    """

    to: State
    outcome: Outcome
    output: Output | None = None
    error: JobError | None = None
    message: str | None = None
    delay_ms: int = 0
    counts: bool = False
    signal: Signal | None = None
    drop_checkpoint: bool = False
    trace_id: str | None = None

    @classmethod
    def succeeded(cls, output: Output, *, signal: Signal | None, trace_id: str | None) -> Self:
        """The output is in the bucket."""
        return cls(State.SUCCEEDED, "succeeded", output=output, counts=True, signal=signal, trace_id=trace_id)

    @classmethod
    def filtered(cls, failure: EditFailure) -> Self:
        """A content refusal: the endpoint works, but refuses this picture and prompt."""
        return cls(
            State.FILTERED,
            "filtered",
            error=error_of(failure),
            message=failure.message,
            counts=True,
            signal=OK,
            drop_checkpoint=True,
            trace_id=failure.trace_id,
        )

    @classmethod
    def failed(cls, failure: EditFailure, signal: Signal | None = None, *, error: JobError | None = None) -> Self:
        """The job ends without a result."""
        return cls(
            State.FAILED,
            "failed",
            error=error or error_of(failure),
            message=failure.message,
            counts=True,
            signal=signal,
            trace_id=failure.trace_id,
        )

    @classmethod
    def retry(
        cls,
        failure: EditFailure,
        *,
        delay_ms: int,
        counts: bool,
        signal: Signal | None,
        outcome: Outcome = "retry",
        drop_checkpoint: bool = False,
    ) -> Self:
        """The job waits `delay_ms` and is tried again."""
        return cls(
            State.WAITING,
            outcome,
            message=failure.message,
            delay_ms=delay_ms,
            counts=counts,
            signal=signal,
            drop_checkpoint=drop_checkpoint,
            trace_id=failure.trace_id,
        )

    @classmethod
    def back_to_lane(cls, failure: EditFailure, outcome: Outcome, signal: Signal | None = None) -> Self:
        """The job returns to its lane, and no try is used up."""
        return cls(State.QUEUED, outcome, message=failure.message, signal=signal, trace_id=failure.trace_id)


def error_of(failure: EditFailure) -> JobError:
    """A failure in the form of the job's record."""
    return JobError(
        code=failure.code,
        message=failure.message,
        retryable=failure.retryable,
        provider_status=failure.provider_status,
        trace_id=failure.trace_id,
    )
