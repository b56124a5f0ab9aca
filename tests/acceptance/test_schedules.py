"""Schedules with real workers: each tick makes one run, and a run pays only for changed pictures."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from infra.local.harness import simulator_process
from jobs.schedules.models import FINAL_RUNS, Run, RunState
from jobs.schedules.submission import parse_schedule
from tests.support.fleet import Fleet
from tests.support.local_editor import picture, unique
from tests.support.waiting import eventually

QUEUES = "edits,ingest"


def create_schedule(fleet: Fleet, **fields: Any) -> str:
    body = {"name": "nightly", "cron": "0 3 1 1 *", "defaults": {"prompt": "brighter"}, **fields}
    return fleet.domain.schedule_submission.create(parse_schedule(body), tenant="acme").id


def runs(fleet: Fleet, schedule_id: str) -> list[Run]:
    return fleet.domain.runs.page("acme", schedule_id).data


def ended(fleet: Fleet, schedule_id: str) -> bool:
    runs_by_schedule = runs(fleet, schedule_id)
    return bool(runs_by_schedule) and all(run.state in FINAL_RUNS for run in runs_by_schedule)


def due_now(fleet: Fleet, schedules: Sequence[str]) -> None:
    """Make all the schedules due now, regardless of their cron expressions."""
    tick = int(time.time() * 1000)
    domain = fleet.domain
    domain.redis.zadd(domain.keys.schedules_due, {domain.keys.schedule(schedule_id): tick for schedule_id in schedules})


def test_two_hundred_due_schedules_make_one_run_each_though_a_worker_is_killed(
    make_fleet: Callable[..., Fleet],
) -> None:
    with simulator_process(fast=True) as origin:
        fleet = make_fleet(origin)
        workers = [fleet.worker(queues=QUEUES, concurrency=4) for _ in range(4)]
        image = fleet.put_picture(picture(1), "in/one.png")
        schedules = [create_schedule(fleet, items=[{"custom_id": "A", "image": image}]) for _ in range(200)]
        due_now(fleet, schedules)
        keys = fleet.domain.keys
        eventually(
            lambda: any(fleet.domain.redis.zcard(keys.runs(schedule_id)) for schedule_id in schedules),
            what="the first run",
        )
        workers[0].kill()
        eventually(
            lambda: all(ended(fleet, schedule_id) for schedule_id in schedules),
            within_s=240,
            what="every run has ended",
        )
        runs_by_schedule = [runs(fleet, schedule_id) for schedule_id in schedules]
        assert [len(made_runs) for made_runs in runs_by_schedule] == [1] * 200
        assert {made_runs[0].state for made_runs in runs_by_schedule} == {RunState.COMPLETED}
        batches = {made_runs[0].batch_id for made_runs in runs_by_schedule}
        assert len(batches) == 200
        assert fleet.domain.redis.zcard(keys.batches("acme")) == 200


def test_a_nightly_run_pays_only_for_changed_pictures(make_fleet: Callable[..., Fleet]) -> None:
    with simulator_process(fast=True) as origin:
        fleet = make_fleet(origin)
        bucket = fleet.domain.bucket
        names = [f"{number:03d}.png" for number in range(80)]
        for number, name in enumerate(names):
            fleet.put_picture(picture(number), f"night/{name}")
        rows = "".join(f"{name},s3://{bucket.name}/night/{name}\n" for name in names)
        bucket.put(bucket.name, "lists/night.csv", f"custom_id,image\n{rows}".encode(), media_type="text/csv")
        listed, under = unique("by its list"), unique("by its folder")
        schedules = {
            listed: create_schedule(fleet, manifest=f"s3://{bucket.name}/lists/night.csv", defaults={"prompt": listed}),
            under: create_schedule(fleet, manifest=f"s3://{bucket.name}/night/", defaults={"prompt": under}),
        }
        fleet.worker(queues=QUEUES, concurrency=16)

        def night(prompt: str) -> Run:
            before = len(runs(fleet, schedules[prompt]))
            due_now(fleet, [schedules[prompt]])
            eventually(lambda: len(runs(fleet, schedules[prompt])) > before, what="a new run")
            eventually(lambda: runs(fleet, schedules[prompt])[0].state in FINAL_RUNS, what="the end of the run")
            return runs(fleet, schedules[prompt])[0]

        assert [night(prompt).state for prompt in schedules] == [RunState.COMPLETED] * 2
        assert [fleet.calls(prompt=prompt)["calls"] for prompt in schedules] == [80, 80]
        for number, name in enumerate(names[:37]):
            fleet.put_picture(picture(1000 + number), f"night/{name}")
        by_list, by_folder = [night(prompt) for prompt in schedules]
        assert [fleet.calls(prompt=prompt)["calls"] for prompt in schedules] == [117, 117]
        assert by_list.counts is not None
        assert by_folder.counts is not None
        assert (by_list.counts.succeeded, by_list.counts.reused, by_list.cost_usd) == (80, 43, 0.111)
        assert (by_folder.counts.succeeded, by_folder.unchanged, by_folder.cost_usd) == (37, 43, 0.111)
        assert [night(prompt).state for prompt in schedules] == [RunState.COMPLETED, RunState.UNCHANGED]
        assert [fleet.calls(prompt=prompt)["calls"] for prompt in schedules] == [117, 117]
