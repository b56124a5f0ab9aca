"""The decision after a failure, as a table: no I/O, no clock, no randomness."""

from datetime import UTC, datetime, timedelta

import pytest

from jobs.foundation import errors
from jobs.foundation.job_states import State
from jobs.plan.retry_decision import MAX_AFTER_429_S, MAX_DELAY_S, History, decide

NOW = datetime(2026, 11, 22, tzinfo=UTC)
FIRST = History(attempt=1, tries=0, max_attempts=6)
LAST = History(attempt=6, tries=5, max_attempts=6)


def failures() -> list[type[errors.EditFailure]]:
    found, stack = [], [errors.EditFailure]
    while stack:
        kind = stack.pop()
        found.append(kind)
        stack += kind.__subclasses__()
    return found


@pytest.mark.parametrize(
    ("failure", "to", "outcome", "counts", "signal"),
    [
        (errors.InputRejected("x"), State.FAILED, "failed", True, None),
        (errors.RequestRefused("x", provider_status=400), State.FAILED, "failed", True, "ok"),
        (errors.Filtered("x", provider_status=451), State.FILTERED, "filtered", True, "ok"),
        (errors.RateLimited("x", scope="rate", limit=10), State.WAITING, "rate_limited", False, "rate"),
        (errors.RateLimited("x", scope="concurrency"), State.WAITING, "rate_limited", False, "concurrency"),
        (errors.RateLimited("x"), State.WAITING, "rate_limited", False, "rate"),
        (errors.ModelTrouble("x", provider_status=401), State.QUEUED, "parked", False, "park"),
        (errors.Transient("x", provider_status=503), State.WAITING, "retry", True, "trouble"),
        (errors.InputUnavailable("x"), State.WAITING, "retry", True, None),
        (errors.OutcomeUnknown("x"), State.WAITING, "retry", True, "trouble"),
        (errors.BadResult("x"), State.WAITING, "retry", True, "trouble"),
        (errors.DownloadFailed("x"), State.WAITING, "retry", False, "ok"),
        (errors.StorageFailed("x"), State.WAITING, "retry", False, "ok"),
        (errors.ResultGone("x"), State.WAITING, "retry", True, None),
        (errors.WorkerLost("x"), State.FAILED, "failed", True, None),
        (errors.DeadlineExceeded("x"), State.FAILED, "failed", True, None),
        (errors.Interrupted("x"), State.QUEUED, "handed_back", False, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_failure_has_one_decision(failure, to, outcome, counts, signal) -> None:
    end = decide(failure, FIRST, NOW, 0.5)
    assert (end.to, end.outcome, end.counts, end.signal and end.signal.kind) == (to, outcome, counts, signal)


@pytest.mark.parametrize("kind", failures(), ids=lambda kind: kind.__name__)
def test_every_kind_of_failure_has_a_decision_and_a_reason(kind: type[errors.EditFailure]) -> None:
    end = decide(kind("the reason"), FIRST, NOW, 0.0)
    assert end.message == "the reason"
    assert end.to is not State.SUCCEEDED


def test_the_last_try_fails_with_its_own_failure() -> None:
    end = decide(errors.Transient("boom", provider_status=500, trace_id="t"), LAST, NOW, 0.5)
    assert end.to is State.FAILED
    assert end.error is not None
    assert (end.error.code, end.error.provider_status, end.error.trace_id) == ("provider_unavailable", 500, "t")
    assert end.error.retryable


def test_a_429_never_uses_up_a_try_however_often_it_comes() -> None:
    for attempt in range(1, 50):
        end = decide(errors.RateLimited("x"), History(attempt, 0, 1), NOW, 0.5)
        assert (end.to, end.counts) == (State.WAITING, False)


def test_without_retry_after_the_back_off_outlasts_a_one_minute_window() -> None:
    waited = [decide(errors.RateLimited("x"), History(n, 0, 6), NOW, 0.0).delay_ms for n in range(1, 9)]
    assert waited == sorted(waited)
    assert sum(waited) > 60_000
    assert decide(errors.RateLimited("x"), History(9, 0, 6), NOW, 0.99).delay_ms > 60_000


def test_retry_after_is_obeyed_and_nothing_comes_before_it() -> None:
    for failure in (errors.RateLimited("x", retry_after_s=17), errors.Transient("x", retry_after_s=17)):
        assert decide(failure, FIRST, NOW, 0.0).delay_ms >= 17_000


@pytest.mark.parametrize("jitter", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("tries", [0, 1, 4, 40])
def test_delays_are_jittered_and_bounded(jitter: float, tries: int) -> None:
    history = History(tries + 1, tries, 100)
    assert 0 <= decide(errors.Transient("x"), history, NOW, jitter).delay_ms <= MAX_DELAY_S * 1000
    limited = decide(errors.RateLimited("x"), History(tries + 1, 0, 100), NOW, jitter)
    assert 500 <= limited.delay_ms <= MAX_AFTER_429_S * 1000


def test_no_retry_is_planned_after_the_deadline() -> None:
    failure = errors.RateLimited("x", retry_after_s=60)
    soon = History(1, 0, 6, NOW + timedelta(seconds=59))
    end = decide(failure, soon, NOW, 0.0)
    assert end.to is State.FAILED
    assert end.error is not None
    assert end.error.code == "deadline_exceeded"
    later = History(1, 0, 6, NOW + timedelta(seconds=62))
    assert decide(failure, later, NOW, 0.0).to is State.WAITING


def test_only_an_unusable_result_drops_the_checkpoint() -> None:
    dropping = {errors.ResultGone, errors.BadResult, errors.Filtered}
    for kind in failures():
        assert decide(kind("x"), FIRST, NOW, 0.0).drop_checkpoint == (kind in dropping), kind
