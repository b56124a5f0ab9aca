"""A batch's budget when attempts are lost, canceled, returned or late: each purchase counts exactly once."""

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
from tests.support.batches import BatchHarness, generous

PRICE = 3000
ANSWER = Checkpoint(
    kind="url", url="https://results.example.com/1.png", seed=1, at=datetime(2026, 1, 1, tzinfo=UTC), attempt=1
)


@pytest.fixture
def batch_harness(make_settings: Callable[..., Settings], tmp_path: Path) -> Iterator[BatchHarness]:
    with generous(make_settings, tmp_path) as domain:
        yield BatchHarness(domain)


def counted(batch_harness: BatchHarness, batch_id: str) -> tuple[int, int, int]:
    """What the budget has: cost, suspected cost, and what is held for attempts under way."""
    found = batch_harness.domain.redis.hmget(batch_harness.domain.keys.batch(batch_id), ["cost", "unknown", "reserved"])
    cost, unknown, reserved = (int(value or 0) for value in found)
    return cost, unknown, reserved


def hand_back(batch_harness: BatchHarness, claim: Claim, *, suspect: bool) -> bool:
    settlement = Settlement.back_to_lane(Interrupted("the worker was stopped"), "handed_back")
    return batch_harness.domain.planner.settle(claim, settlement, finished_at=datetime.now(UTC), suspect=suspect)


def test_two_attempts_of_one_job_each_reserve_and_release_their_price(batch_harness: BatchHarness) -> None:
    batch_id = batch_harness.running(1, budget_usd=0.009)
    (first,) = batch_harness.start()
    batch_harness.domain.planner.cancel(first.job_id)
    batch_harness.domain.planner.retry(first.job_id)
    (second,) = batch_harness.start()
    assert counted(batch_harness, batch_id) == (0, 0, 2 * PRICE)
    assert not batch_harness.end(first)
    assert counted(batch_harness, batch_id) == (0, 0, PRICE)
    assert batch_harness.end(second)
    assert counted(batch_harness, batch_id) == (0, 0, 0)


def test_an_abandoned_call_counts_as_spent_until_its_cost_is_known(batch_harness: BatchHarness) -> None:
    batch_id = batch_harness.running(1, budget_usd=0.003)
    (claim,) = batch_harness.start()
    assert hand_back(batch_harness, claim, suspect=True)
    assert counted(batch_harness, batch_id) == (0, PRICE, 0)
    assert batch_harness.start() == []
    assert batch_harness.batch(batch_id).reason == "budget"
    # Its answer was recorded after all.
    batch_harness.domain.planner.checkpoint(claim, ANSWER, cost_micro_usd=PRICE)
    assert counted(batch_harness, batch_id) == (PRICE, 0, 0)


def test_an_attempt_that_continues_from_a_checkpoint_is_not_maybe_billed(batch_harness: BatchHarness) -> None:
    batch_id = batch_harness.running(1, budget_usd=0.003)
    (first,) = batch_harness.start()
    assert batch_harness.domain.planner.checkpoint(first, ANSWER, cost_micro_usd=PRICE)
    assert hand_back(batch_harness, first, suspect=True)
    (second,) = batch_harness.start()
    assert second.checkpoint == ANSWER
    assert hand_back(batch_harness, second, suspect=True)
    assert counted(batch_harness, batch_id) == (PRICE, 0, 0)


def test_a_late_settlement_does_not_charge_a_call_twice(batch_harness: BatchHarness) -> None:
    batch_id = batch_harness.running(1)
    (first,) = batch_harness.start()
    assert batch_harness.domain.planner.checkpoint(first, ANSWER, cost_micro_usd=PRICE)
    assert hand_back(batch_harness, first, suspect=False)
    (second,) = batch_harness.start()
    assert batch_harness.end(second)
    assert not batch_harness.end(first, State.FAILED, cost_micro_usd=PRICE)
    assert counted(batch_harness, batch_id)[0] == PRICE
    assert batch_harness.job(batch_id, 1).cost_usd == PRICE / 1e6
