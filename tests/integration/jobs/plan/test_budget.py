"""A batch's budget when attempts are lost, canceled, handed back or late: each purchase counts, and counts once."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs.foundation.errors import Interrupted
from jobs.foundation.job_states import State
from jobs.foundation.settings import Settings
from jobs.plan.records import Claim
from jobs.plan.settlement import Settlement
from jobs.records.job_models import Checkpoint
from tests.support.batches import Hands, generous

PRICE = 3000
ANSWER = Checkpoint(
    kind="url", url="https://results.example.com/1.png", seed=1, at=datetime(2026, 1, 1, tzinfo=UTC), attempt=1
)


@pytest.fixture
def hands(make_settings: Callable[..., Settings], tmp_path: Path) -> Iterator[Hands]:
    with generous(make_settings, tmp_path) as domain:
        yield Hands(domain)


def counted(hands: Hands, batch_id: str) -> tuple[int, int, int]:
    """What the budget has: cost, suspected cost, and what is held for attempts under way."""
    found = hands.domain.redis.hmget(hands.domain.keys.batch(batch_id), ["cost", "unknown", "reserved"])
    cost, unknown, reserved = (int(value or 0) for value in found)
    return cost, unknown, reserved


def hand_back(hands: Hands, claim: Claim, *, suspect: bool) -> bool:
    settlement = Settlement.back_to_lane(Interrupted("the worker was stopped"), "handed_back")
    return hands.domain.planner.settle(claim, settlement, finished_at=datetime.now(UTC), suspect=suspect)


def test_two_attempts_of_one_job_under_way_hold_and_give_back_a_part_each(hands: Hands) -> None:
    batch_id = hands.running(1, budget_usd=0.009)
    (first,) = hands.start()
    hands.domain.planner.cancel(first.job_id)
    hands.domain.planner.retry(first.job_id)
    (second,) = hands.start()
    assert counted(hands, batch_id) == (0, 0, 2 * PRICE)
    assert not hands.end(first)
    assert counted(hands, batch_id) == (0, 0, PRICE)
    assert hands.end(second)
    assert counted(hands, batch_id) == (0, 0, 0)


def test_an_abandoned_call_counts_as_spent_until_its_cost_is_known(hands: Hands) -> None:
    batch_id = hands.running(1, budget_usd=0.003)
    (claim,) = hands.start()
    assert hand_back(hands, claim, suspect=True)
    assert counted(hands, batch_id) == (0, PRICE, 0)
    assert hands.start() == []
    assert hands.batch(batch_id).reason == "budget"
    # Its answer was recorded after all.
    hands.domain.planner.checkpoint(claim, ANSWER, cost_micro_usd=PRICE)
    assert counted(hands, batch_id) == (PRICE, 0, 0)


def test_an_attempt_that_goes_on_from_a_recorded_answer_is_not_suspected(hands: Hands) -> None:
    batch_id = hands.running(1, budget_usd=0.003)
    (first,) = hands.start()
    assert hands.domain.planner.checkpoint(first, ANSWER, cost_micro_usd=PRICE)
    assert hand_back(hands, first, suspect=True)
    (second,) = hands.start()
    assert second.checkpoint == ANSWER
    assert hand_back(hands, second, suspect=True)
    assert counted(hands, batch_id) == (PRICE, 0, 0)


def test_a_late_settlement_does_not_charge_a_call_twice(hands: Hands) -> None:
    batch_id = hands.running(1)
    (first,) = hands.start()
    assert hands.domain.planner.checkpoint(first, ANSWER, cost_micro_usd=PRICE)
    assert hand_back(hands, first, suspect=False)
    (second,) = hands.start()
    assert hands.end(second)
    assert not hands.end(first, State.FAILED, cost_micro_usd=PRICE)
    assert counted(hands, batch_id)[0] == PRICE
    assert hands.job(batch_id, 1).cost_usd == PRICE / 1e6
