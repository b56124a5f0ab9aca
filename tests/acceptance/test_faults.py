"""Faults of the endpoint and of a worker: no job is lost, and only interrupted calls are paid twice."""

import os
import signal
from typing import Any

from infra.local.harness import simulator_process
from jobs.foundation.job_states import State
from tests.support.faults import MakeFleet, all_end, outcomes, purchases, small, tries
from tests.support.fleet import Fleet
from tests.support.waiting import eventually


def model_of(fleet: Fleet) -> Any:
    return fleet.domain.status.models()[0]


def test_an_endpoint_that_is_down_parks_its_model_until_a_probe_succeeds(make_fleet: MakeFleet) -> None:
    with simulator_process(fast=True) as origin:
        fleet = make_fleet(origin, concurrency=8)
        fleet.worker()
        fleet.knobs(error_rate=1, error_statuses=[503])
        image = fleet.put_picture(small(), "in/small.png")
        jobs = [fleet.submit(image, f"down {n}") for n in range(40)]
        eventually(lambda: model_of(fleet).parked_code == "failing", what="the model is parked")
        assert "503" in str(model_of(fleet).parked_reason)
        calls_before = fleet.calls()["calls"]
        eventually(lambda: fleet.calls()["calls"] > calls_before, what="a probe is sent")
        fleet.knobs(error_rate=0)
        all_end(fleet, jobs)
        assert {fleet.job(job_id).state for job_id in jobs} == {State.SUCCEEDED}
        assert not model_of(fleet).parked
        assert set(purchases(origin).values()) == {1}


def test_a_call_that_hangs_or_drips_ends_at_the_timeout_and_is_retried(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(timeout_s=2)
    fleet.worker()
    image = fleet.put_picture(small(), "in/small.png")
    jobs = [fleet.submit(image, f"[sim:{fault}*1] bounded") for fault in ("hang", "drip=8")]
    for job_id in jobs:
        job = fleet.ended(job_id)
        assert job.state is State.SUCCEEDED, job.error
        assert outcomes(fleet, job_id) == ["retry", "succeeded"]
        first = job.attempts[0]
        assert first.finished_at is not None
        assert first.started_at is not None
        # A call that hangs ends only by the timeout.
        assert (first.finished_at - first.started_at).total_seconds() >= 2


def test_calls_on_half_open_connections_end_at_the_timeout(make_fleet: MakeFleet) -> None:
    with simulator_process(fast=True) as origin:
        fleet = make_fleet(origin, timeout_s=2, concurrency=8)
        fleet.worker()
        image = fleet.put_picture(small(), "in/small.png")
        # After SIGSTOP, pooled connections stay open without an answer, and the kernel accepts new ones.
        warm = [fleet.submit(image, f"warm {n}") for n in range(8)]
        all_end(fleet, warm)
        os.kill(origin.pid, signal.SIGSTOP)
        try:
            jobs = [fleet.submit(image, f"half open {n}") for n in range(8)]
            eventually(
                lambda: all("retry" in outcomes(fleet, job_id) for job_id in jobs),
                what="each job has one attempt that timed out",
            )
        finally:
            os.kill(origin.pid, signal.SIGCONT)
        all_end(fleet, jobs)
        assert {fleet.job(job_id).state for job_id in jobs} == {State.SUCCEEDED}
        # The stopped endpoint may have received and billed calls that timed out.
        bought = purchases(origin)
        for number, job_id in enumerate(jobs):
            assert 1 <= bought[f"half open {number}"] <= 1 + outcomes(fleet, job_id).count("retry")


def test_a_key_that_becomes_invalid_parks_the_model_and_fails_no_job(make_fleet: MakeFleet) -> None:
    with simulator_process(fast=True, latency_ms=50) as origin:
        fleet = make_fleet(origin, concurrency=16)
        image = fleet.put_picture(small(), "in/small.png")
        # All jobs are queued before the worker starts, so some are left when the key becomes invalid.
        jobs = [fleet.submit(image, f"key {n}") for n in range(500)]
        fleet.worker(concurrency=16)
        eventually(lambda: fleet.calls()["billed"] >= 100, what="100 edits are paid")
        fleet.knobs(keys=["another-key"])
        reason = eventually(lambda: model_of(fleet).parked_reason, what="the model is parked")
        assert "401" in reason
        assert "STEP_API_KEY" in reason
        eventually(lambda: model_of(fleet).in_flight == 0, what="the running calls have ended")
        left = [job_id for job_id in jobs if fleet.job(job_id).state is not State.SUCCEEDED]
        assert left
        assert {fleet.job(job_id).state for job_id in left} <= {State.QUEUED, State.RUNNING}
        assert [tries(fleet, job_id) for job_id in left] == [0] * len(left)
        fleet.knobs(keys=["sim-key"])
        all_end(fleet, jobs)
        assert {fleet.job(job_id).state for job_id in jobs} == {State.SUCCEEDED}
        assert set(purchases(origin).values()) == {1}


def test_a_worker_killed_with_a_hundred_calls_repeats_only_unanswered_calls(make_fleet: MakeFleet) -> None:
    with simulator_process(latency_ms=3000, fast=True) as origin:
        fleet = make_fleet(origin, concurrency=100, rpm=60_000)
        victim = fleet.worker(concurrency=100)
        image = fleet.put_picture(small(), "in/small.png")
        jobs = {f"hundred {n}": fleet.submit(image, f"hundred {n}") for n in range(100)}
        # Do not wait for 100 in flight: the first call may end before the last begins.
        eventually(lambda: fleet.calls()["calls"] == 100, what="100 calls have begun")
        victim.kill()
        answered = {name for name, job_id in jobs.items() if is_recorded(fleet, job_id)}
        fleet.worker(concurrency=100)
        all_end(fleet, list(jobs.values()))
        assert {fleet.job(job_id).state for job_id in jobs.values()} == {State.SUCCEEDED}
        bought = purchases(origin)
        assert set(bought) == set(jobs)
        assert max(bought.values()) == 2
        assert [name for name in answered if bought[name] > 1] == []


def is_recorded(fleet: Fleet, job_id: str) -> bool:
    """Whether the job's record has the endpoint's answer or the output."""
    record = fleet.domain.redis.hmget(fleet.domain.keys.job(job_id), "checkpoint", "output")
    return any(record)
