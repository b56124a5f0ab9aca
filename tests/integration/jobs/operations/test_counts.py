"""The counts that the scripts keep, and the statistics computed from them."""

from datetime import UTC, datetime
from typing import Any

import pytest
from redis.connection import Connection

from jobs.catalogue.status import Status
from jobs.foundation.ids import made_at
from jobs.foundation.job_states import State
from jobs.operations.stats import ModelStats, Stats
from jobs.records.job_models import Checkpoint
from tests.support.plans import MODEL, Plans

HOUR_S = 3600


def stats_of(plans: Plans) -> Stats:
    catalogue = plans.planner._catalogue
    return Stats(plans.redis, plans.keys, catalogue, plans.scripts, Status(plans.redis, plans.keys, catalogue))


def model_of(plans: Plans) -> ModelStats:
    plans.redis.delete(plans.keys.worker("w1"))  # it has said nothing of itself
    (model,) = stats_of(plans).fleet().models
    return model


def lose_leases(plans: Plans) -> None:
    """A minute in which the worker renews nothing."""
    for _ in range(12):
        plans.clock.advance(5)
        plans.beat()


def bought(plans: Plans, attempt: int) -> Checkpoint:
    return Checkpoint(kind="url", url="https://r/1", at=datetime.now(UTC), attempt=attempt)


def test_ends_attempts_and_cost_are_counted_in_the_step_that_writes_them(plans: Plans) -> None:
    plans.submit(5)
    first, second, third, fourth, fifth = plans.start()
    for claim, to in (
        (first, State.SUCCEEDED),
        (second, State.FILTERED),
        (third, State.FAILED),
        (fourth, State.WAITING),
    ):
        plans.planner.checkpoint(claim, bought(plans, 1), cost_micro_usd=3000)
        assert plans.end(claim, to)
    plans.planner.cancel(fifth.job_id)
    assert not plans.end(fifth)
    model = model_of(plans)
    assert (model.submitted, model.started) == (5, 5)
    assert {state: n for state, n in model.ended.items() if n} == {
        "succeeded": 1,
        "filtered": 1,
        "failed": 1,
        "canceled": 1,
    }
    assert {outcome: n for outcome, n in model.attempts.items() if n} == {
        "succeeded": 1,
        "filtered": 1,
        "failed": 1,
        "retry": 1,
    }
    assert model.settlements_refused == 1
    assert (model.paid, model.paid_again, model.cost_usd) == (4, 0, 0.012)


def test_a_second_payment_counts_as_paid_again_unless_the_user_retried(plans: Plans) -> None:
    plans.submit()
    (claim,) = plans.start()
    plans.planner.checkpoint(claim, bought(plans, 1), cost_micro_usd=3000)
    plans.end(claim, State.WAITING)
    (claim,) = plans.start()
    plans.planner.checkpoint(claim, bought(plans, 2), cost_micro_usd=3000)
    plans.planner.checkpoint(claim, bought(plans, 2), cost_micro_usd=3000)
    plans.end(claim, State.FAILED)
    assert (model_of(plans).paid, model_of(plans).paid_again) == (2, 1)
    plans.planner.retry(claim.job_id)
    (claim,) = plans.start()
    plans.planner.checkpoint(claim, bought(plans, 3), cost_micro_usd=3000)
    plans.end(claim)
    assert (model_of(plans).paid, model_of(plans).paid_again) == (3, 1)


def test_a_late_second_payment_of_a_succeeded_job_is_counted(plans: Plans) -> None:
    plans.submit()
    (late,) = plans.start()
    lose_leases(plans)
    (claim,) = plans.start()
    plans.planner.checkpoint(claim, bought(plans, 2), cost_micro_usd=3000)
    assert plans.end(claim)
    assert not plans.planner.checkpoint(late, bought(plans, 1), cost_micro_usd=3000)
    assert (model_of(plans).paid, model_of(plans).paid_again) == (2, 1)


def test_a_lost_lease_counts_by_who_held_it(plans: Plans) -> None:
    plans.submit(2)
    plans.claim(plans.plan()[0])
    lose_leases(plans)
    plans.plan(limit=0)
    model = model_of(plans)
    assert model.leases_lost == {"worker": 1, "nobody": 1}
    assert model.attempts["lease_lost"] == 1


def test_the_oldest_queued_job_is_reported_by_priority(plans: Plans) -> None:
    (first,) = plans.submit(priority="high")
    (second,) = plans.submit(priority="low")
    plans.clock.now_ms = round(made_at(second).timestamp() * 1000) + 90_000
    model = model_of(plans)
    assert model.lanes == 2
    assert model.oldest_queued_s["low"] == 90
    assert model.oldest_queued_s["high"] == 90 + (made_at(second) - made_at(first)).total_seconds()
    assert model.oldest_queued_s["normal"] == 0
    plans.beat()
    plans.start()
    model = model_of(plans)
    assert model.lanes == 0
    assert set(model.oldest_queued_s.values()) == {0.0}


def test_the_queued_age_of_a_resumed_batch_starts_at_its_resumption(plans: Plans) -> None:
    batch_id, (job_id, *_) = plans.submit_batch(3)
    batch = plans.keys.batch(batch_id)
    record: dict[Any, Any] = {
        "state": "running",
        "tenant": "acme",
        "ingested": "1",
        "queued": 3,
        "chores": plans.keys.background_tasks,
    }
    plans.redis.hset(batch, mapping={**record, "lanes": plans.keys.batch_lanes(batch_id)})
    plans.redis.sadd(plans.keys.batch_lanes(batch_id), plans.keys.lane(MODEL, "acme", batch_id, "normal"))
    plans.clock.now_ms = round(made_at(job_id).timestamp() * 1000) + 60_000
    assert model_of(plans).oldest_queued_s["normal"] == 60
    plans.scripts.run("batches/pause", [batch], [])
    plans.clock.advance(HOUR_S)
    model = model_of(plans)
    assert (model.lanes, model.oldest_queued_s["normal"]) == (0, 0)
    plans.scripts.run("batches/resume", [batch], [""])
    plans.clock.advance(7)
    model = model_of(plans)
    assert (model.lanes, model.oldest_queued_s["normal"]) == (1, 7)
    plans.beat()
    (claim, *_) = plans.start()
    assert (claim.claimed_at - claim.queued_at).total_seconds() == 7


def test_the_queued_age_of_a_waiting_or_retried_job_starts_when_it_is_queued(plans: Plans) -> None:
    plans.submit()
    (claim,) = plans.start()
    plans.end(claim, State.WAITING, delay_ms=600_000)
    plans.clock.advance(700)
    plans.beat()
    plans.plan(limit=0)
    assert model_of(plans).oldest_queued_s["normal"] == 0
    plans.clock.advance(20)
    assert model_of(plans).oldest_queued_s["normal"] == 20
    plans.beat()
    (again,) = plans.start()
    assert (again.claimed_at - again.queued_at).total_seconds() == 20


def test_rates_cover_only_the_last_minute_and_hour(plans: Plans) -> None:
    def edit(number: int) -> None:
        plans.submit(number)
        for claim in plans.start():
            plans.end(claim)

    def pass_time(seconds: int) -> None:
        for _ in range(seconds // 5):
            plans.clock.advance(5)
            plans.beat()
            plans.plan()

    plans.plan()
    edit(7)
    pass_time(2 * HOUR_S)
    assert model_of(plans).last_hour.succeeded == 0
    edit(5)
    pass_time(600)
    edit(3)
    pass_time(30)
    model = model_of(plans)
    assert (model.last_minute.succeeded, model.last_hour.succeeded) == (3, 8)
    assert (model.last_minute.submitted, model.last_hour.started) == (3, 8)
    assert model.last_minute.over_s <= 60
    assert 3500 <= model.last_hour.over_s <= HOUR_S
    assert model.ended[State.SUCCEEDED] == 15
    assert int(plans.redis.llen(plans.keys.samples(MODEL))) <= 362


def test_the_last_hour_is_one_hour_even_after_a_long_pause_of_planning(plans: Plans) -> None:
    def edit(number: int) -> None:
        plans.submit(number)
        for claim in plans.start():
            plans.end(claim)

    def pass_time(seconds: int) -> None:
        for _ in range(seconds // 10):
            plans.clock.advance(10)
            plans.beat()
            plans.plan()

    plans.plan()
    edit(7)
    pass_time(HOUR_S)
    plans.clock.advance(2 * HOUR_S)
    assert model_of(plans).last_hour.succeeded == 0
    plans.beat()
    plans.plan()
    edit(5)
    pass_time(1200)
    edit(3)
    pass_time(30)
    model = model_of(plans)
    assert (model.last_minute.succeeded, model.last_hour.succeeded) == (3, 8)
    assert 1200 <= model.last_hour.over_s <= 1300


def test_every_tenant_is_counted_in_as_many_round_trips_as_one(plans: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        plans.submit(number + 1, tenant=f"t{number:02d}")
    stats, trips = stats_of(plans), []
    send = Connection.send_packed_command

    def counted(self: Any, *words: Any, **options: Any) -> Any:
        trips.append(words)
        return send(self, *words, **options)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(Connection, "send_packed_command", counted)
    every = stats.tenants()
    assert len(trips) == 2
    assert [(tenant.name, tenant.jobs[State.QUEUED]) for tenant in every] == [
        (f"t{number:02d}", number + 1) for number in range(20)
    ]
    assert every[3] == stats.tenant("t03")


def test_counts_survive_the_expiry_of_a_job_record(plans: Plans) -> None:
    (job_id,) = plans.submit()
    (claim,) = plans.start()
    plans.end(claim)
    plans.redis.delete(plans.keys.job(job_id))
    assert model_of(plans).ended[State.SUCCEEDED] == 1
    assert model_of(plans).jobs[State.SUCCEEDED] == 1
