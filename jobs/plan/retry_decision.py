"""Decides how a failed attempt ends: retried, failed, filtered, handed back or parked. Pure functions without I/O.

The delay is "full jitter" (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015): a random time
between 0 and a bound that doubles. After a 429 it is in the upper half, and the bound exceeds a one-minute window.
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
MAX_DELAY_S = 60.0
MAX_AFTER_429_S = 75.0
MAX_RETRY_AFTER_S = 3600.0


@dataclass(frozen=True)
class History:
    """The history of a job at the time when one of its attempts fails.

    Attributes:
        attempt: the attempt's number, from 1.
        tries: attempts used up before this one.
        max_attempts: tries that the model allows.
        deadline: when the job must have ended, if it has a deadline.
        probe: whether the attempt checked if a parked model works again.
    """

    attempt: int
    tries: int
    max_attempts: int
    deadline: datetime | None = None
    probe: bool = False


def decide(failure: EditFailure, history: History, now: datetime, jitter: float) -> Settlement:  # noqa: PLR0911 - a table
    """The settlement of a failed attempt.

    Args:
        failure: the reason.
        history: of the job.
        now: time of the failure.
        jitter: a random number, at least 0 and below 1.
    """
    uncounted = max(0, history.attempt - 1 - history.tries)
    match failure:
        case Filtered():
            return Settlement.filtered(failure)
        case Interrupted():
            return Settlement.back_to_lane(failure, "handed_back")
        case ModelTrouble():
            signal = Signal("park", code=failure.code, reason=failure.message)
            return Settlement.back_to_lane(failure, "parked", signal)
        case RateLimited():
            retry_after_ms = _milliseconds(failure.retry_after_s)
            signal = Signal(
                "concurrency" if failure.scope == "concurrency" else "rate",
                limit=failure.limit,
                retry_after_ms=retry_after_ms,
            )
            bound = _bound(uncounted, MAX_AFTER_429_S)
            delay = _delay_ms(bound, 0.5 + jitter / 2, failure.retry_after_s)
            retry = Settlement.retry(failure, delay_ms=delay, counts=False, signal=signal, outcome="rate_limited")
            return _within(retry, failure, history, now)
        case DownloadFailed() | StorageFailed():
            delay = _delay_ms(_bound(uncounted, MAX_DELAY_S), jitter, failure.retry_after_s)
            return _within(Settlement.retry(failure, delay_ms=delay, counts=False, signal=OK), failure, history, now)
        case ResultGone():
            retry = Settlement.retry(failure, delay_ms=0, counts=True, signal=None, drop_checkpoint=True)
            return _counted(retry, failure, history, now)
        case Transient():
            delay = _delay_ms(_bound(history.tries, MAX_DELAY_S), jitter, failure.retry_after_s)
            trouble = None if isinstance(failure, InputUnavailable) else _trouble(failure)
            # The failure of a parked model does not count against the job that probes it.
            uncharged = history.probe and trouble is not None
            retry = Settlement.retry(
                failure,
                delay_ms=delay,
                counts=not uncharged,
                signal=trouble,
                drop_checkpoint=isinstance(failure, BadResult),
            )
            return (_within if uncharged else _counted)(retry, failure, history, now)
        case _:
            return Settlement.failed(failure, OK if failure.provider_status is not None else None)


def _counted(retry: Settlement, failure: EditFailure, history: History, now: datetime) -> Settlement:
    if history.tries + 1 >= history.max_attempts:
        return Settlement.failed(failure, retry.signal)
    return _within(retry, failure, history, now)


def _within(retry: Settlement, failure: EditFailure, history: History, now: datetime) -> Settlement:
    """The retry, or a failure if the retry would start after the deadline."""
    if history.deadline is None or now + timedelta(milliseconds=retry.delay_ms) < history.deadline:
        return retry
    error = JobError(
        code="deadline_exceeded",
        message=f"the deadline ends before the next try; the last failure: {failure.message}",
        retryable=True,
        provider_status=failure.provider_status,
        trace_id=failure.trace_id,
    )
    return Settlement.failed(failure, retry.signal, error=error)


def _trouble(failure: Transient) -> Signal:
    return Signal(
        "trouble", code="failing", reason=failure.message, retry_after_ms=_milliseconds(failure.retry_after_s)
    )


def _bound(times: int, max_s: float) -> float:
    return float(min(max_s, FIRST_S * 2 ** min(times, 16)))


def _delay_ms(bound_s: float, fraction: float, asked_s: float | None) -> int:
    retry_after_s = min(asked_s or 0.0, MAX_RETRY_AFTER_S)
    return int(1000 * (retry_after_s + bound_s * fraction))


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(1000 * min(seconds, MAX_RETRY_AFTER_S))
