"""The report of an attempt: what it did, and how long each of its steps took."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from jobs.foundation.errors import (
    BadResult,
    DownloadFailed,
    EditFailure,
    Filtered,
    Interrupted,
    ModelTrouble,
    OutcomeUnknown,
    RateLimited,
    ResultGone,
    StorageFailed,
    Transient,
)
from jobs.foundation.ids import batch_of
from jobs.foundation.tracing import Spans, trace_id_of
from jobs.plan.records import Claim


@dataclass(frozen=True)
class AttemptReport:
    """An attempt that has ended.

    Attributes:
        model, priority: of its job.
        outcome: as in the job's attempt log.
        written: whether the fence accepted the settlement.
        queued_s: from queued to claimed, in seconds.
        took_s: from claim to settlement, in seconds.
        steps: seconds of each step, by the names of `metric_catalogue.STEPS`.
        answer: the class of the answer, one of `metric_catalogue.ANSWER_CLASSES`; None without a call.
        fetched_bytes: size of the input; 0 where it was not fetched.
        kept_bytes: size of the stored output; 0 where nothing was stored.
    """

    model: str
    priority: str
    outcome: str
    written: bool
    queued_s: float
    took_s: float
    steps: Mapping[str, float]
    answer: str | None
    fetched_bytes: int
    kept_bytes: int


Listener = Callable[[AttemptReport], None]


class Stopwatch:
    """Times the steps of one attempt; each step is a span of the trace, too.

    Args:
        spans: makes the spans.
    """

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self.steps: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a block. A repeated step adds to its time."""
        started = time.perf_counter()
        try:
            with self._spans.span(name):
                yield
        finally:
            self.steps[name] = self.steps.get(name, 0.0) + time.perf_counter() - started


def names_of(claim: Claim) -> dict[str, str | int]:
    """The fields that every log line of an attempt has."""
    names: dict[str, str | int | None] = {
        "job_id": claim.job_id,
        "attempt": claim.attempt,
        "batch_id": batch_of(claim.job_id),
        "tenant": claim.tenant,
        "model": claim.spec.model,
        "trace_id": trace_id_of(claim.spec.traceparent),
    }
    return {name: value for name, value in names.items() if value is not None}


def answer_class(  # noqa: PLR0911 - a table
    failure: EditFailure | None, *, called: bool, answered: bool
) -> str | None:
    """The class of an answer, one of `metric_catalogue.ANSWER_CLASSES`; None without an answer that counts.

    Args:
        failure: why the attempt failed, if it did.
        called: whether the endpoint was called.
        answered: whether it delivered a result, also one that could not be used.
    """
    if not called:
        return None
    match failure:
        case BadResult():
            return "bad_result"
        case None | DownloadFailed() | StorageFailed() | ResultGone():
            return "ok"
        case _ if answered:
            return "ok"
        case Filtered():
            return "filtered"
        case RateLimited():
            return "rate_limited"
        case ModelTrouble():
            return "model_trouble"
        case OutcomeUnknown():
            return "no_answer"
        case Interrupted():
            return None
        case Transient():
            return "no_answer" if failure.provider_status is None else "server_error"
        case _:
            return "refused"
