"""The window and the pace: discovered, lowered by the matching kind of 429, and recovered, with an injected clock."""

from collections.abc import Callable

import pytest

from jobs.foundation.job_states import State
from jobs.plan.records import Claim
from jobs.plan.settlement import Signal
from tests.support.plans import MODEL, Plans, model

RATE, CONCURRENCY = Signal("rate"), Signal("concurrency")


def number(plans: Plans, field: str) -> float:
    return float(plans.model_field(field) or 0)


def refuse(plans: Plans, claim: Claim, signal: Signal) -> None:
    assert plans.end(claim, State.WAITING, signal=signal, delay_ms=3_600_000)


def advance(plans: Plans, seconds: float) -> None:
    """Let time pass; the one worker lives on, with what it holds."""
    plans.clock.advance(seconds)
    plans.beat()


def test_an_unknown_limit_starts_at_eight_and_grows_by_one_for_each_window(
    make_plans: Callable[..., Plans],
) -> None:
    plans = make_plans(model(concurrency=100, rpm=0))
    plans.submit(60)
    first = plans.start()
    assert len(first) == 8
    for claim in first:
        plans.end(claim)
    # Only a success in a full window says that there is room for more.
    assert number(plans, "limit") == 9
    assert len(plans.start()) == 9


def test_a_known_limit_is_used_at_once_and_never_exceeded(make_plans: Callable[..., Plans]) -> None:
    plans = make_plans(model(concurrency=5, rpm=60_000))
    plans.submit(40)
    for _ in range(6):
        claims = plans.start()
        assert len(claims) == 5
        for claim in claims:
            plans.end(claim)
        advance(plans, 1)


def test_a_concurrency_429_shrinks_the_window_once_by_a_third(
    make_plans: Callable[..., Plans],
) -> None:
    plans = make_plans(model(concurrency=30, rpm=60_000))
    plans.submit(60)
    claims = plans.start()
    assert len(claims) == 30
    plans.clock.advance(1)
    refuse(plans, claims[0], CONCURRENCY)
    assert number(plans, "limit") == pytest.approx(20)
    for claim in claims[1:10]:
        refuse(plans, claim, CONCURRENCY)
    assert number(plans, "limit") == pytest.approx(20)
    for claim in claims[10:]:
        plans.end(claim)
    plans.clock.advance(1)
    plans.beat()
    later = plans.start()
    assert len(later) == 20
    plans.clock.advance(1)
    refuse(plans, later[0], CONCURRENCY)
    assert number(plans, "limit") == pytest.approx(20 * 2 / 3)
    assert plans.model_field("pace") is None


def test_after_pressure_the_window_grows_by_one_for_each_window_of_successes(
    make_plans: Callable[..., Plans],
) -> None:
    plans = make_plans(model(concurrency=12, rpm=60_000))
    plans.submit(200)
    claims = plans.start()
    plans.clock.advance(1)
    refuse(plans, claims[0], Signal("concurrency", limit=6))
    for claim in claims[1:]:
        plans.end(claim, signal=None)
    assert number(plans, "limit") == 6
    # Slots are filled again after each end, so that the window is always full.
    held = plans.start()
    for _ in range(6):
        plans.end(held.pop(0))
        held += plans.start()
    assert number(plans, "limit") == pytest.approx(7, abs=0.1)


def test_too_many_a_minute_lowers_the_pace_once_and_leaves_the_window_alone(make_plans: Callable[..., Plans]) -> None:
    plans = make_plans(model(concurrency=50, rpm=600))
    plans.submit(400)
    claims = plans.start()
    while len(claims) < 40:
        advance(plans, 0.1)
        claims += plans.start()
    refuse(plans, claims[0], RATE)
    pace = number(plans, "pace")
    assert pace < 600
    for claim in claims[1:10]:
        refuse(plans, claim, RATE)
    assert number(plans, "pace") == pace
    assert number(plans, "limit") == 50


def test_a_limit_named_by_the_endpoint_is_never_exceeded(make_plans: Callable[..., Plans]) -> None:
    plans = make_plans(model(concurrency=50, rpm=0))
    plans.submit(10)
    (claim, *_) = plans.start()
    refuse(plans, claim, Signal("rate", limit=100))
    assert number(plans, "pace") == pytest.approx(98.5)


def test_nothing_starts_before_the_endpoint_s_retry_after_is_over(make_plans: Callable[..., Plans]) -> None:
    plans = make_plans(model(concurrency=50, rpm=600))
    plans.submit(10)
    (claim,) = plans.start(limit=1)
    refuse(plans, claim, Signal("rate", retry_after_ms=7000))
    assert plans.plan() == []
    advance(plans, 6.9)
    assert plans.plan() == []
    advance(plans, 0.2)
    assert plans.plan()


def test_a_lowered_pace_recovers_slowly_up_to_the_configured_rate(
    make_plans: Callable[..., Plans],
) -> None:
    plans = make_plans(model(concurrency=50, rpm=600))
    plans.submit(200)
    (claim,) = plans.start(limit=1)
    refuse(plans, claim, RATE)
    pace = number(plans, "pace")
    advance(plans, 19)
    (claim,) = plans.start(limit=1)
    plans.end(claim)
    assert number(plans, "pace") == pace
    rises = 0
    while plans.model_field("pace") is not None:
        before = number(plans, "pace")
        advance(plans, 61)
        (claim,) = plans.start(limit=1)
        plans.end(claim)
        if plans.model_field("pace") is not None:
            assert number(plans, "pace") == pytest.approx(before * 1.02)
        rises += 1
        assert rises < 2000
        if rises == 3:
            # So that the test need not climb all the way.
            plans.redis.hset(plans.keys.model(MODEL), "pace", "595")
    assert rises >= 3


def test_a_changed_limit_of_the_catalogue_replaces_the_discovered_one(
    make_plans: Callable[..., Plans],
) -> None:
    plans = make_plans(model(concurrency=50, rpm=100))
    plans.submit(5)
    (claim,) = plans.start(limit=1)
    refuse(plans, claim, Signal("rate", limit=10))
    assert number(plans, "pace") == pytest.approx(9.85)
    plans.planner.register_models()
    assert number(plans, "pace") == pytest.approx(9.85)
    raised = Plans(plans.redis, plans.keys.prefix, plans.clock, model(concurrency=50, rpm=2600))
    assert raised.model_field("pace") is None
