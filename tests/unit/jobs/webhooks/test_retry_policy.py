"""The retry policy of deliveries and the end of a delivery."""

import pytest

from jobs.webhooks.delivery_models import TRANSITIONS, DeliveryState
from jobs.webhooks.retry_policy import JITTER, SCHEDULE_S, Exchange, judge
from tests.support.paths import ROOT


def failed(status: int, retry_after_s: float | None = None) -> Exchange:
    return Exchange(took_ms=5, status=status, retry_after_s=retry_after_s)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_is_a_success(status: int) -> None:
    assert judge(failed(status), 0, 0.5).ok


@pytest.mark.parametrize("status", [100, 301, 302, 307, 400, 401, 404, 422, 429, 500, 503])
def test_every_other_status_is_retried(status: int) -> None:
    verdict = judge(failed(status), 0, 0.0)
    assert (verdict.ok, verdict.delay_ms, verdict.gone) == (False, 5000, False)


def test_an_incomplete_2xx_answer_is_a_failure() -> None:
    assert not judge(Exchange(took_ms=5, status=200, error="it broke off"), 0, 0.0).ok


@pytest.mark.parametrize("tries", range(9))
@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
def test_pauses_follow_the_schedule_and_are_never_shorter(tries: int, jitter: float) -> None:
    delay_ms = judge(failed(500), tries, jitter).delay_ms
    assert delay_ms is not None
    pause_ms = 1000 * SCHEDULE_S[tries + 1]
    assert pause_ms <= delay_ms <= pause_ms * (1 + JITTER)
    assert (delay_ms == pause_ms) is (jitter == 0.0)


def test_the_schedule_is_documented() -> None:
    assert SCHEDULE_S == (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
    guide = (ROOT / "docs" / "webhooks.md").read_text()
    assert "at once, 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h" in guide


def test_the_last_attempt_has_no_retry() -> None:
    verdict = judge(failed(500), 9, 0.0)
    assert (verdict.delay_ms, verdict.why) == (None, "10 tries have failed")


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_delays_the_delivery_and_the_whole_receiver(status: int) -> None:
    verdict = judge(failed(status, 90), 0, 0.0)
    assert (verdict.delay_ms, verdict.rest_ms) == (90_000, 90_000)
    later = judge(failed(status, 1), 3, 0.0)
    assert (later.delay_ms, later.rest_ms) == (7200_000, 1000)


def test_retry_after_needs_a_429_or_503_and_is_capped_at_a_day() -> None:
    assert judge(failed(500, 90), 0, 0.0).delay_ms == 5000
    assert judge(failed(429, 1e9), 0, 0.0).delay_ms == 86_400_000


def test_a_410_ends_the_delivery_at_once() -> None:
    verdict = judge(failed(410), 0, 0.0)
    assert verdict.gone
    assert verdict.delay_ms is None


def test_only_the_user_restarts_an_ended_delivery() -> None:
    leaving = {(source, target) for source, target in TRANSITIONS if source in {"succeeded", "exhausted"}}
    assert leaving == {("succeeded", DeliveryState.WAITING), ("exhausted", DeliveryState.WAITING)}
