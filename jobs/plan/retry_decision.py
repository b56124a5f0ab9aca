"""What follows from a failure: retried, failed, filtered, handed back, parked. Pure; no I/O, no clock, no dice.

The delay is "full jitter" (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015): anywhere between
nothing and a bound that doubles. After a 429 it is the upper half of that, and the bound outlasts a one-minute window.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from jobs.foundation.errors import (
    BadResult,
    DownloadFailed,
    EditFailure,
    Filtered,
    InputUnavailable,
    Interrupted,
    ModelTrouble,
    RateLimited,
    ResultGone,
    StorageFailed,
    Transient,
)
from jobs.plan.settlement import OK, Settlement, Signal
from jobs.records.job_models import JobError

FIRST_S = 1.0
LONGEST_S = 60.0
LONGEST_AFTER_RATE_S = 75.0
LONGEST_OBEYED_S = 3600.0


@dataclass(frozen=True)
class History:
    """What is known of a job when an attempt of it fails.

    Attributes:
        attempt: the attempt's number, from 1.
        tries: attempts used up before this one.
        max_attempts: tries the model allows.
        deadline: when the job must have ended, if it must.
        probe: whether the attempt was to find out if a parked model is back.
    """

    attempt: int
    tries: int
    max_attempts: int
    deadline: datetime | None = None
    probe: bool = False


def decide(failure: EditFailure, history: History, now: datetime, jitter: float) -> Settlement:  # noqa: PLR0911 - a table
    """The settlement of an attempt that failed.

    Args:
        failure: why it failed.
        history: what is known of the job.
        now: the moment of the failure.
        jitter: a random number, at least 0 and below 1.
    """
    free = max(0, history.attempt - 1 - history.tries)
    match failure:
        case Filtered():
            return Settlement.filtered(failure)
        case Interrupted():
            return Settlement.back_to_lane(failure, "handed_back")
        case ModelTrouble():
            signal = Signal("park", code=failure.code, reason=failure.message)
            return Settlement.back_to_lane(failure, "parked", signal)
        case RateLimited():
            asked_ms = _milliseconds(failure.retry_after_s)
            signal = Signal(
                "concurrency" if failure.scope == "concurrency" else "rate",
                limit=failure.limit,
                retry_after_ms=asked_ms,
            )
            bound = _bound(free, LONGEST_AFTER_RATE_S)
            delay = _delay_ms(bound, 0.5 + jitter / 2, failure.retry_after_s)
            later = Settlement.retry(failure, delay_ms=delay, counts=False, signal=signal, outcome="rate_limited")
            return _within(later, failure, history, now)
        case DownloadFailed() | StorageFailed():
            delay = _delay_ms(_bound(free, LONGEST_S), jitter, failure.retry_after_s)
            return _within(Settlement.retry(failure, delay_ms=delay, counts=False, signal=OK), failure, history, now)
        case ResultGone():
            later = Settlement.retry(failure, delay_ms=0, counts=True, signal=None, drop_checkpoint=True)
            return _counted(later, failure, history, now)
        case Transient():
            delay = _delay_ms(_bound(history.tries, LONGEST_S), jitter, failure.retry_after_s)
            signal_or_none = None if isinstance(failure, InputUnavailable) else _trouble(failure)
            # That a parked model is still away says nothing of the job that was sent to see.
            spared = history.probe and signal_or_none is not None
            later = Settlement.retry(
                failure,
                delay_ms=delay,
                counts=not spared,
                signal=signal_or_none,
                drop_checkpoint=isinstance(failure, BadResult),
            )
            return (_within if spared else _counted)(later, failure, history, now)
        case _:
            return Settlement.failed(failure, OK if failure.provider_status is not None else None)


def _counted(later: Settlement, failure: EditFailure, history: History, now: datetime) -> Settlement:
    if history.tries + 1 >= history.max_attempts:
        return Settlement.failed(failure, later.signal)
    return _within(later, failure, history, now)


def _within(later: Settlement, failure: EditFailure, history: History, now: datetime) -> Settlement:
    """A retry that would come after the deadline is none."""
    if history.deadline is None or now + timedelta(milliseconds=later.delay_ms) < history.deadline:
        return later
    error = JobError(
        code="deadline_exceeded",
        message=f"its deadline comes before the next try; the last failure: {failure.message}",
        retryable=True,
        provider_status=failure.provider_status,
        trace_id=failure.trace_id,
    )
    return Settlement.failed(failure, later.signal, error=error)


def _trouble(failure: Transient) -> Signal:
    return Signal(
        "trouble", code="failing", reason=failure.message, retry_after_ms=_milliseconds(failure.retry_after_s)
    )


def _bound(times: int, longest_s: float) -> float:
    return float(min(longest_s, FIRST_S * 2 ** min(times, 16)))


def _delay_ms(bound_s: float, fraction: float, asked_s: float | None) -> int:
    asked = min(asked_s or 0.0, LONGEST_OBEYED_S)
    return int(1000 * (asked + bound_s * fraction))


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(1000 * min(seconds, LONGEST_OBEYED_S))
