"""Stopping workers: running jobs finish or are handed back, and no edit is paid twice."""

from collections import Counter
from collections.abc import Callable

import httpx

from infra.local.harness import simulator_process
from jobs.foundation.job_states import State
from tests.support.fleet import Fleet, Worker
from tests.support.photographs import photograph
from tests.support.waiting import eventually

ONE_S = 1000


def picture(fleet: Fleet) -> str:
    return fleet.put_picture(photograph("rocket.jpg").read_bytes(), "in/rocket.jpg")


def wait_for_calls(fleet: Fleet, prompt: str, number: int) -> None:
    """Wait until the endpoint has received `number` calls. Some of them may have ended by then."""
    eventually(lambda: fleet.calls(prompt=prompt)["calls"] >= number, what=f"{number} calls have begun")


def wait_until_draining(fleet: Fleet, worker: Worker) -> None:
    eventually(
        lambda: any(info.name == worker.name and info.draining for info in fleet.domain.status.workers()),
        what=f"{worker.name} drains",
    )


def tries(fleet: Fleet, job_id: str) -> int:
    return int(str(fleet.domain.redis.hget(fleet.domain.keys.job(job_id), "tries") or 0))


def test_sigterm_finishes_short_jobs_and_hands_long_ones_back(fleet: Fleet) -> None:
    worker = fleet.worker(concurrency=4, grace_s=12)
    image = picture(fleet)
    short = [fleet.submit(image, f"[sim:latency={1.5 * ONE_S:.0f}] drain short {n}") for n in range(2)]
    long = [fleet.submit(image, f"[sim:latency={60 * ONE_S}*1] drain long {n}") for n in range(2)]
    wait_for_calls(fleet, "drain long", 2)
    wait_for_calls(fleet, "drain short", 2)
    worker.terminate()
    wait_until_draining(fleet, worker)
    late = fleet.submit(image, "drain late")
    assert worker.process.wait(120) == 0
    assert [fleet.job(job_id).state for job_id in short] == [State.SUCCEEDED] * 2
    for job_id in long:
        job = fleet.job(job_id)
        assert job.state is State.QUEUED
        assert [attempt.outcome for attempt in job.attempts] == ["handed_back"]
        assert tries(fleet, job_id) == 0
    assert fleet.job(late).state is State.QUEUED
    assert fleet.job(late).attempts == []
    fleet.worker()
    assert {fleet.ended(job_id).state for job_id in [*long, late]} == {State.SUCCEEDED}
    assert fleet.calls(prompt="drain short")["calls"] == 2


def test_a_second_sigterm_hands_all_jobs_back_at_once(fleet: Fleet) -> None:
    worker = fleet.worker(concurrency=4, grace_s=600)
    image = picture(fleet)
    jobs = [fleet.submit(image, f"[sim:latency={600 * ONE_S}*1] drain quickly {n}") for n in range(4)]
    wait_for_calls(fleet, "drain quickly", 4)
    worker.terminate()
    wait_until_draining(fleet, worker)
    worker.terminate()
    assert worker.process.wait(120) == 0
    assert {fleet.job(job_id).state for job_id in jobs} == {State.QUEUED}
    assert [tries(fleet, job_id) for job_id in jobs] == [0] * 4
    fleet.worker()
    assert {fleet.ended(job_id).state for job_id in jobs} == {State.SUCCEEDED}


def test_a_rolling_restart_loses_no_job_and_pays_for_none_twice(make_fleet: Callable[..., Fleet]) -> None:
    with simulator_process(latency_ms=500, fast=True) as origin:
        fleet = make_fleet(origin)
        first = [fleet.worker(concurrency=6), fleet.worker(concurrency=6)]
        image = picture(fleet)
        jobs: list[str] = []
        for worker in first:
            jobs += [fleet.submit(image, f"rolling {n}") for n in range(len(jobs), len(jobs) + 50)]
            wait_for_calls(fleet, "rolling", len(jobs) - 42)
            worker.terminate()
            assert worker.process.wait(120) == 0
            fleet.worker(concurrency=6)
        for job_id in jobs:
            job = fleet.ended(job_id)
            assert job.state is State.SUCCEEDED, job.error
            assert [attempt.outcome for attempt in job.attempts] == ["succeeded"]
        calls = httpx.get(f"{origin}/_sim/calls", timeout=60).json()["data"]
        assert Counter(call["prompt"] for call in calls) == {f"rolling {n}": 1 for n in range(100)}
