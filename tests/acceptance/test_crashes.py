"""A killed process delays its jobs by one lease and loses none of them."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import httpx
from pydantic import SecretStr
from redis.exceptions import RedisError

from infra.local.embedded_servers import Valkey
from infra.local.harness import simulator_process
from jobs.foundation.job_states import FINAL, State
from jobs.foundation.settings import Settings
from tests.support.fleet import Fleet
from tests.support.photographs import photograph
from tests.support.waiting import eventually


def test_a_killed_worker_loses_no_job_and_no_job_has_two_calls_at_once(
    make_fleet: Callable[..., Fleet],
) -> None:
    with simulator_process(latency_ms=700) as origin:
        fleet = make_fleet(origin)
        victim = fleet.worker()
        image = fleet.put_picture(photograph("rocket.jpg").read_bytes(), "in/rocket.jpg")
        jobs = [fleet.submit(image, f"kill {n}") for n in range(24)]
        eventually(lambda: fleet.calls()["calls"] >= 8, what="8 calls have begun")
        victim.kill()
        running = [job_id for job_id in jobs if fleet.job(job_id).state is State.RUNNING]
        assert running
        fleet.worker()
        for job_id in jobs:
            job = fleet.ended(job_id, within_s=120)
            assert job.state is State.SUCCEEDED, job.error
        calls = httpx.get(f"{origin}/_sim/calls", timeout=60).json()["data"]
        for job_id in jobs:
            spans = [
                (c["at"], c["at"] + c["duration_ms"] / 1000) for c in calls if c["prompt"] == prompt_of(fleet, job_id)
            ]
            spans.sort()
            assert all(before[1] <= after[0] for before, after in pairwise(spans))
            assert len(spans) <= (2 if job_id in running else 1)


def test_valkey_killed_right_after_the_submissions_loses_no_job(
    make_fleet: Callable[..., Fleet], make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    with Valkey(tmp_path) as valkey, simulator_process(latency_ms=100) as origin:
        settings = make_settings(redis_url=SecretStr(valkey.url), broker_url=SecretStr(valkey.url_of(1)))
        fleet = make_fleet(origin, settings)
        fleet.worker()
        image = fleet.put_picture(photograph("rocket.jpg").read_bytes(), "in/rocket.jpg")
        jobs = [fleet.submit(image, f"valkey {n}") for n in range(40)]
        valkey.kill()
        valkey.restart()
        eventually(lambda: all(job_state(fleet, job_id) in FINAL for job_id in jobs), within_s=120, what="all jobs end")
        assert {fleet.job(job_id).state for job_id in jobs} == {State.SUCCEEDED}
        calls = httpx.get(f"{origin}/_sim/calls", timeout=60).json()["data"]
        assert len(calls) <= 2 * len(jobs)


def test_an_edit_is_paid_once_if_its_download_fails_and_its_worker_is_killed(
    make_fleet: Callable[..., Fleet],
) -> None:
    fleet = make_fleet()
    victim = fleet.worker()
    image = fleet.put_picture(photograph("rocket.jpg").read_bytes(), "in/rocket.jpg")
    prompt = "[sim:download_fail*3] bought once"
    job_id = fleet.submit(image, prompt)
    eventually(lambda: fleet.job(job_id).attempts, what="a download has failed")
    victim.kill()
    fleet.worker()
    job = fleet.ended(job_id, within_s=120)
    assert job.state is State.SUCCEEDED, job.error
    assert fleet.calls(prompt=prompt)["calls"] == 1
    assert job.cost_usd == 0.003


def prompt_of(fleet: Fleet, job_id: str) -> str | None:
    return fleet.job(job_id).prompt


def job_state(fleet: Fleet, job_id: str) -> State | None:
    try:
        return fleet.job(job_id).state
    except RedisError:
        return None
