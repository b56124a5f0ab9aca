"""Schedules with an injected clock: one run for each tick, whatever fails in between."""

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.batches.models import BatchState
from jobs.events.outbox import Outbox
from jobs.foundation.errors import Conflict
from jobs.foundation.job_states import State
from jobs.foundation.settings import Settings
from jobs.queueing.background_tasks import TaskKind
from jobs.schedules.models import RunState, ScheduleChange, ScheduleState, batch_id_of, run_id
from jobs.webhooks.endpoint_models import EndpointFields
from jobs.webhooks.routing import EventRouter
from tests.support.clock import Clock
from tests.support.schedules import MIDNIGHT, Timetable, hours, open_at
from workers.process.wiring import build_schedule_poller


def test_a_tick_creates_a_run_and_a_batch_and_its_end_sends_an_event(timetable: Timetable) -> None:
    schedule = timetable.make()
    assert timetable.schedule(schedule).next_run_at == MIDNIGHT + hours(1)
    assert timetable.fire() == 0
    timetable.set(MIDNIGHT + hours(1))
    assert timetable.fire() == 1
    assert timetable.fire() == 0
    timetable.begin()
    (run,) = timetable.runs(schedule)
    assert (run.state, run.trigger, run.scheduled_at) == (RunState.RUNNING, "cron", MIDNIGHT + hours(1))
    assert run.batch_id is not None
    batch = timetable.batch_harness.batch(run.batch_id)
    assert (batch.state, batch.schedule_id, batch.run_id) == (BatchState.RUNNING, schedule, run.id)
    assert batch.defaults["reuse"] is True
    assert run.counts is not None
    assert run.counts.queued == 1
    assert timetable.finish() == 1
    (run,) = timetable.runs(schedule)
    assert run.state is RunState.COMPLETED
    assert run.counts is not None
    assert run.counts.succeeded == 1
    assert timetable.schedule(schedule).runs.completed == 1
    assert timetable.schedule(schedule).current_run is None
    assert timetable.open_background_tasks(TaskKind.RUN) == []
    assert timetable.batch_harness.events("schedule.") == ["schedule.run_started"]


def test_five_hours_of_downtime_with_a_window_of_two_are_two_runs_and_three_missed(timetable: Timetable) -> None:
    schedule = timetable.make(catch_up_s=7200)
    timetable.set(MIDNIGHT + hours(5) + timedelta(minutes=1))
    assert timetable.fire() == 2
    assert timetable.states(schedule) == ["missed", "missed", "missed", "due", "queued"]
    assert timetable.schedule(schedule).next_run_at == MIDNIGHT + hours(6)
    assert timetable.finish() == 2
    assert timetable.states(schedule) == ["missed", "missed", "missed", "completed", "completed"]
    totals = timetable.schedule(schedule).runs
    assert (totals.missed, totals.completed, totals.skipped) == (3, 2, 0)
    assert all(run.reason for run in timetable.runs(schedule)[:3])


def test_a_month_of_missed_minutes_is_claimed_in_chunks_and_keeps_the_newest_runs(timetable: Timetable) -> None:
    schedule = timetable.make("* * * * *", catch_up_s=120)
    timetable.set(MIDNIGHT + timedelta(days=1, seconds=5))
    assert timetable.fire() == 2
    totals = timetable.schedule(schedule).runs
    assert totals.missed == 1440 - 2
    assert len(timetable.domain.redis.zrange(timetable.domain.keys.runs(schedule), 0, -1)) == 500
    assert timetable.schedule(schedule).next_run_at == MIDNIGHT + timedelta(days=1, minutes=1)


def test_two_hundred_due_schedules_fire_once_each_with_several_pollers(timetable: Timetable) -> None:
    schedule_ids = [timetable.make() for _ in range(200)]
    timetable.set(MIDNIGHT + hours(1))
    counts: list[int] = []
    start = threading.Barrier(4)

    def call() -> None:
        start.wait()
        counts.append(build_schedule_poller(timetable.domain).fire())

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sum(counts) == 200
    assert [timetable.states(schedule_id) for schedule_id in schedule_ids] == [["due"]] * 200
    assert len(timetable.open_background_tasks(TaskKind.RUN)) == 200


def test_a_caller_with_an_old_tick_claims_nothing(timetable: Timetable) -> None:
    schedule = timetable.make()
    timetable.set(MIDNIGHT + hours(1))
    (seen,) = timetable.domain.schedules.due()
    assert timetable.fire() == 1
    assert timetable.domain.schedules.claim(seen) is None
    assert timetable.states(schedule) == ["due"]


def test_a_caller_with_a_fast_clock_claims_no_future_tick(timetable: Timetable) -> None:
    schedule = timetable.make()
    timetable.set(MIDNIGHT + hours(1))
    (seen,) = timetable.domain.schedules.due()
    timetable.set(MIDNIGHT + hours(1) - timedelta(seconds=5))
    claimed = timetable.domain.schedules.claim(seen)
    assert claimed is not None
    assert claimed.runs == 0
    assert timetable.states(schedule) == []
    assert timetable.schedule(schedule).next_run_at == MIDNIGHT + hours(1)


def test_a_run_interrupted_before_its_batch_is_completed_once(timetable: Timetable) -> None:
    schedule = timetable.make()
    timetable.set(MIDNIGHT + hours(1))
    timetable.fire()
    (run,) = timetable.open_background_tasks(TaskKind.RUN)
    # The worker held the lease, began the batch and was lost before it recorded that.
    with timetable.domain.background_tasks.hold(TaskKind.RUN, run) as held:
        assert held is not None
        from jobs.schedules.run_to_batch import _RunStep  # noqa: PLC0415

        step = _RunStep(timetable.domain.run_to_batch, run, timetable.domain.runs.record(run), held)
        template, record = timetable.domain.schedules.read("acme", schedule)
        step._begin(template, record)
    assert timetable.batch_harness.do(TaskKind.RUN, run).startswith("dropped")
    timetable.clock.advance(10)
    assert timetable.finish() == 1
    assert timetable.states(schedule) == ["completed"]
    assert len(timetable.domain.batches.page("acme").data) == 1


@pytest.mark.parametrize(
    ("overlap", "then", "later"),
    [
        ("skip", ["running", "skipped"], ["completed", "skipped"]),
        ("queue", ["running", "queued"], ["completed", "completed"]),
        ("cancel_previous", ["running", "queued"], ["canceled", "completed"]),
    ],
)
def test_a_run_due_during_the_previous_run_follows_the_overlap_policy(
    timetable: Timetable, overlap: str, then: list[str], later: list[str]
) -> None:
    schedule = timetable.make(overlap=overlap)
    timetable.set(MIDNIGHT + hours(1))
    timetable.fire()
    timetable.begin()
    timetable.set(MIDNIGHT + hours(2))
    timetable.fire()
    assert timetable.states(schedule) == then
    timetable.finish()
    assert timetable.states(schedule) == later
    assert timetable.schedule(schedule).current_run is None
    assert timetable.open_runs(schedule) == []


def test_with_cancel_previous_only_the_last_of_several_runs_continues(timetable: Timetable) -> None:
    schedule = timetable.make(overlap="cancel_previous")
    for hour in (1, 2, 3):
        timetable.set(MIDNIGHT + hours(hour))
        timetable.fire()
    timetable.finish()
    assert timetable.states(schedule) == ["canceled", "canceled", "completed"]


def test_a_schedule_ends_with_its_end_date(timetable: Timetable) -> None:
    schedule = timetable.make(ends_at=(MIDNIGHT + hours(2)).isoformat())
    assert timetable.schedule(schedule).next_runs == [MIDNIGHT + hours(1), MIDNIGHT + hours(2)]
    timetable.set(MIDNIGHT + hours(4))
    timetable.fire()
    assert [run.scheduled_at for run in timetable.runs(schedule)] == [MIDNIGHT + hours(1), MIDNIGHT + hours(2)]
    ended = timetable.schedule(schedule)
    assert (ended.state, ended.next_run_at) == (ScheduleState.ENDED, None)
    longer = timetable.domain.schedule_submission.change("acme", schedule, ScheduleChange(ends_at=MIDNIGHT + hours(9)))
    assert (longer.state, longer.next_run_at) == (ScheduleState.ACTIVE, MIDNIGHT + hours(5))


def test_run_now_keeps_the_ticks_and_respects_the_overlap_policy(timetable: Timetable) -> None:
    schedule = timetable.make()
    timetable.domain.schedules.pause("acme", schedule)
    run = timetable.domain.schedules.run_now("acme", schedule)
    assert (run.state, run.trigger) == (RunState.DUE, "manual")
    timetable.clock.advance(1)
    with pytest.raises(Conflict):
        timetable.domain.schedules.run_now("acme", schedule)
    assert timetable.finish() == 1
    timetable.clock.advance(1)
    assert timetable.domain.schedules.run_now("acme", schedule).id != run.id


def test_a_run_with_a_missing_manifest_fails_and_sends_an_event(timetable: Timetable) -> None:
    bucket = timetable.domain.bucket.name
    schedule = timetable.make(manifest=f"s3://{bucket}/lists/gone.csv")
    timetable.set(MIDNIGHT + hours(1))
    timetable.fire()
    timetable.finish()
    (run,) = timetable.runs(schedule)
    assert (run.state, run.batch_id) == (RunState.FAILED, None)
    assert "no object" in (run.reason or "")
    assert timetable.batch_harness.events("schedule.") == ["schedule.run_failed"]
    # The next one is not kept from its turn.
    timetable.domain.bucket.put(bucket, "lists/gone.csv", timetable.batch_harness.csv(2), media_type="text/csv")
    timetable.set(MIDNIGHT + hours(2))
    timetable.fire()
    assert timetable.finish() == 2
    assert timetable.states(schedule) == ["failed", "completed"]


def test_run_events_reach_endpoints_and_the_schedules_webhook_url(timetable: Timetable) -> None:
    domain = timetable.domain
    endpoint = domain.endpoints.create(
        "acme", EndpointFields.model_validate({"url": "http://127.0.0.1:9/hooks", "events": ["schedule.*"]})
    )
    schedule = timetable.make(webhook_url="http://127.0.0.1:9/mine")
    timetable.set(MIDNIGHT + hours(1))
    timetable.fire()
    timetable.begin()
    outbox = Outbox(domain.redis, domain.keys)
    outbox.ensure()
    (event,) = [event for event in outbox.read("t", count=100, block_ms=0) if event.type.startswith("schedule.")]
    targets = EventRouter(domain.redis, domain.keys).targets(event)
    assert {target.queue_id for target in targets if target.url is None} == {endpoint.id}
    assert {target.url for target in targets if target.url} == {"http://127.0.0.1:9/mine"}
    body = json.loads(domain.bodies.render(event))
    (run,) = timetable.runs(schedule)
    assert (body["type"], body["data"]["id"], body["data"]["batch_id"]) == (
        "schedule.run_started",
        run.id,
        run.batch_id,
    )
    assert body["data"]["schedule_name"] == "nightly"


def test_a_source_that_does_not_answer_is_retried_for_an_hour(
    make_settings: Callable[..., Settings], tmp_path: Path, clock: Clock
) -> None:
    away = open_at(lambda **more: make_settings(s3_endpoint_url="http://127.0.0.1:9", **more), tmp_path, clock)
    timetable = Timetable(away, clock)
    timetable.set(MIDNIGHT)
    schedule = timetable.make(manifest=f"s3://{away.bucket.name}/lists/night.csv")
    timetable.set(MIDNIGHT + hours(1))
    timetable.fire()
    timetable.do(TaskKind.RUN)
    (run,) = timetable.runs(schedule)
    assert (run.state, run.waits_for) == (RunState.DUE, "the bucket does not answer")
    timetable.set(MIDNIGHT + hours(2))
    timetable.do(TaskKind.RUN)
    (run,) = timetable.runs(schedule)
    assert run.state is RunState.FAILED
    assert "an hour" in (run.reason or "")
    away.close()


def test_a_batch_without_a_valid_row_fails_its_run(timetable: Timetable) -> None:
    schedule = timetable.make(items=[{"custom_id": "A", "image": "ftp://nowhere/x.png"}])
    timetable.set(MIDNIGHT + hours(1))
    timetable.fire()
    timetable.finish()
    (run,) = timetable.runs(schedule)
    assert run.state is RunState.FAILED
    assert run.batch_id is not None
    assert timetable.batch_harness.events("schedule.") == ["schedule.run_started", "schedule.run_failed"]


def test_retrying_a_batch_after_its_run_ended_updates_the_run(timetable: Timetable) -> None:
    schedule = timetable.make()
    timetable.set(MIDNIGHT + hours(1))
    timetable.fire()
    timetable.begin()
    timetable.batch_harness.work(State.FAILED)
    timetable.finish()
    (run,) = timetable.runs(schedule)
    assert run.counts is not None
    assert (run.state, run.counts.failed) == (RunState.COMPLETED, 1)
    timetable.domain.batches.retry("acme", run.batch_id or "", [State.FAILED])
    timetable.finish()
    (run,) = timetable.runs(schedule)
    assert run.counts is not None
    assert (run.counts.failed, run.counts.succeeded) == (0, 1)
    assert timetable.schedule(schedule).runs.completed == 1


def test_ids_of_runs_and_batches_are_deterministic() -> None:
    run = run_id("sch_01KD3V6E5Y2M8Q4T7W9Z0ABCDE", 1_800_000_000_000)
    assert run == "run_01KD3V6E5Y2M8Q4T7W9Z0ABCDE-1800000000000"
    assert batch_id_of(run, 1_800_000_000_123) == batch_id_of(run, 1_800_000_000_123)
    assert batch_id_of(run, 1_800_000_000_123) != batch_id_of(run + "m", 1_800_000_000_123)
