"""What Retouch leans on goes away and comes back: no job is lost, none uses up a try, none is bought twice."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from pydantic import SecretStr
from redis import Redis
from redis.exceptions import RedisError

from infra.embedded import SeaweedFS, Valkey
from infra.stand import simulator_process
from jobs.settings import Settings
from jobs.states import FINAL, State
from tests.fleet import Fleet, eventually
from tests.integration.api_harness import served

MakeFleet = Callable[..., Fleet]
MakeSettings = Callable[..., Settings]


def small(shade: int = 90) -> bytes:
    """A picture that costs next to nothing."""
    held = BytesIO()
    Image.new("RGB", (48, 32), (shade, 120, 60)).save(held, "PNG")
    return held.getvalue()


def outlast(seconds: float, holds: Callable[[], object]) -> None:
    """Let so much time pass, in which a condition holds whenever it is asked."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert holds()
        time.sleep(0.25)


def tries(fleet: Fleet, job_id: str) -> int:
    return int(str(fleet.domain.redis.hget(fleet.domain.keys.job(job_id), "tries") or 0))


def outcomes(fleet: Fleet, job_id: str) -> list[str]:
    return [attempt.outcome for attempt in fleet.job(job_id).attempts]


def all_end(fleet: Fleet, jobs: list[str], within_s: float = 90) -> None:
    """Wait for the end of all, while the store may still be on its way back."""

    def ended() -> bool:
        try:
            return all(fleet.job(job_id).state in FINAL for job_id in jobs)
        except RedisError:
            return False

    eventually(ended, within_s=within_s, what=f"{len(jobs)} jobs end")


def purchases(origin: str) -> Counter[str]:
    """How often each prompt was paid for."""
    calls = httpx.get(f"{origin}/_sim/calls").json()["data"]
    return Counter(call["prompt"] for call in calls if call["billed"])


def model_of(fleet: Fleet) -> Any:
    return fleet.domain.status.models()[0]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey of the test's own, to be killed."""
    with Valkey(tmp_path) as server:
        yield server


@pytest.fixture
def bucket(tmp_path: Path, seaweedfs: SeaweedFS) -> Iterator[SeaweedFS]:
    """A SeaweedFS of the test's own, to be stopped, that takes the session's credentials."""
    own = SeaweedFS(tmp_path, access_key=seaweedfs.access_key, secret_key=seaweedfs.secret_key)
    with own as server:
        yield server


def on(server: Valkey, make_settings: MakeSettings) -> Settings:
    return make_settings(redis_url=SecretStr(server.url), broker_url=SecretStr(server.url_of(1)))


def test_redis_away_for_longer_than_a_lease_costs_its_jobs_nothing(
    store: Valkey, make_settings: MakeSettings, make_fleet: MakeFleet
) -> None:
    with simulator_process(latency_ms=1500, fast=True) as origin:
        settings = on(store, make_settings)
        fleet = make_fleet(origin, settings)
        workers = [fleet.worker(queues="edits,webhooks"), fleet.worker()]
        image = fleet.put_picture(small(), "in/small.png")
        key = fleet.domain.tenants.create_key("acme")
        with (
            served(fleet.domain) as url,
            httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60) as api,
        ):
            jobs = [fleet.submit(image, f"outage {n}") for n in range(24)]
            eventually(lambda: fleet.calls()["in_flight"] >= 8, what="8 calls are under way")
            store.kill()

            def is_told() -> bool:
                answer = api.post("/v1/jobs", json={"prompt": "while it is away", "image": image})
                return answer.status_code == 503 and int(answer.headers["retry-after"]) > 0

            outlast(settings.lease_s + 2, is_told)
            store.restart()
            made = eventually(
                lambda: (
                    (answer := api.post("/v1/jobs", json={"prompt": "it is back", "image": image})).is_success
                    and answer
                ),
                what="the API accepts jobs again",
            )
            jobs.append(made.json()["id"])
            all_end(fleet, jobs)
        assert {fleet.job(job_id).state for job_id in jobs} == {State.SUCCEEDED}
        assert Counter(name for job_id in jobs for name in outcomes(fleet, job_id)) == {"succeeded": len(jobs)}
        assert set(purchases(origin).values()) == {1}
        assert [worker.process.poll() for worker in workers] == [None, None]
        eventually(lambda: len(fleet.domain.status.workers()) == 2, what="both pulses are felt again")


def test_redis_that_hangs_for_longer_than_a_lease_costs_its_jobs_nothing(
    store: Valkey, make_settings: MakeSettings, make_fleet: MakeFleet
) -> None:
    with simulator_process(latency_ms=1000, fast=True) as origin:
        settings = on(store, make_settings)
        fleet = make_fleet(origin, settings)
        worker = fleet.worker()
        image = fleet.put_picture(small(), "in/small.png")
        jobs = [fleet.submit(image, f"hang {n}") for n in range(20)]
        eventually(lambda: fleet.calls()["in_flight"] >= 8, what="8 calls are under way")
        worker_lives = lambda: worker.process.poll() is None  # noqa: E731 - said twice
        pid = store.pid
        try:
            os.kill(pid, signal.SIGSTOP)
            outlast(settings.lease_s + 2, worker_lives)
        finally:
            os.kill(pid, signal.SIGCONT)
        all_end(fleet, jobs)
        assert Counter(name for job_id in jobs for name in outcomes(fleet, job_id)) == {"succeeded": len(jobs)}
        assert set(purchases(origin).values()) == {1}
        assert worker_lives()


def test_a_flushed_broker_costs_its_jobs_a_lease_and_no_try(
    valkey: Valkey, make_settings: MakeSettings, make_fleet: MakeFleet
) -> None:
    settings = make_settings(broker_url=SecretStr(valkey.url_of(5)), key_prefix="flush:")
    fleet = make_fleet(settings=settings)
    worker = fleet.worker(concurrency=12)
    image = fleet.put_picture(small(), "in/small.png")
    fleet.ended(fleet.submit(image, "before the flush"))
    broker = Redis.from_url(valkey.url_of(5))
    os.kill(worker.process.pid, signal.SIGSTOP)
    try:
        jobs = [fleet.submit(image, f"flushed {n}") for n in range(16)]
        # Twelve were published for its threads; one or two lie in its socket already.
        assert int(str(broker.llen("flush:celery:edits"))) >= 10
        broker.flushdb()
    finally:
        os.kill(worker.process.pid, signal.SIGCONT)
        broker.close()
    all_end(fleet, jobs)
    jobs.append(fleet.submit(image, "after the flush"))
    fleet.ended(jobs[-1])
    assert Counter(name for job_id in jobs for name in outcomes(fleet, job_id)) == {"succeeded": 17}
    assert fleet.calls(prompt="flushed ")["calls"] == 16


@pytest.mark.parametrize("dialect", ["stepfun", "openai"])
def test_a_bucket_that_is_away_while_results_come_costs_no_try_and_no_second_purchase(
    dialect: str, bucket: SeaweedFS, make_settings: MakeSettings, make_fleet: MakeFleet
) -> None:
    with simulator_process(latency_ms=1500, fast=True) as origin:
        settings = make_settings(s3_endpoint_url=bucket.endpoint_url, s3_bucket=bucket.bucket)
        spoken = {"openai": {"dialect": "openai", "provider_model": "gpt-image-1.5"}, "stepfun": {}}[dialect]
        fleet = make_fleet(origin, settings, **spoken)
        fleet.worker()
        image = fleet.put_picture(small(), "in/small.png")
        jobs = [fleet.submit(image, f"bought {n}", seed=None) for n in range(6)]
        eventually(lambda: fleet.calls()["in_flight"] == 6, what="6 calls are under way")
        bucket.kill()
        eventually(lambda: fleet.calls()["in_flight"] == 0, what="the endpoint has answered")
        later = [fleet.submit(image, f"not fetched {n}", seed=None) for n in range(2)]
        eventually(
            lambda: all(len(outcomes(fleet, job_id)) >= 2 for job_id in later), what="the input was asked for twice"
        )
        if dialect == "stepfun":
            eventually(lambda: all(outcomes(fleet, job_id) for job_id in jobs), what="each put has failed")
        else:
            assert {fleet.job(job_id).state for job_id in jobs} == {State.RUNNING}
        assert [tries(fleet, job_id) for job_id in [*jobs, *later]] == [0] * 8
        bucket.restart()
        all_end(fleet, [*jobs, *later])
        for job_id in [*jobs, *later]:
            job = fleet.job(job_id)
            assert job.state is State.SUCCEEDED, job.error
            assert job.output is not None
            data = fleet.domain.bucket.get(job.output.bucket, job.output.key, max_bytes=1 << 26)
            Image.open(BytesIO(data)).load()
        assert set(purchases(origin).values()) == {1}
        assert len(purchases(origin)) == 8


def test_an_endpoint_that_is_down_parks_its_model_and_is_found_again_by_a_probe(make_fleet: MakeFleet) -> None:
    with simulator_process(fast=True) as origin:
        fleet = make_fleet(origin, concurrency=8)
        fleet.worker()
        fleet.knobs(error_rate=1, error_statuses=[503])
        image = fleet.put_picture(small(), "in/small.png")
        jobs = [fleet.submit(image, f"down {n}") for n in range(40)]
        eventually(lambda: model_of(fleet).parked_code == "failing", what="the model is parked")
        assert "503" in str(model_of(fleet).parked_reason)
        asked = fleet.calls()["calls"]
        eventually(lambda: fleet.calls()["calls"] > asked, what="a probe goes out")
        fleet.knobs(error_rate=0)
        all_end(fleet, jobs)
        assert {fleet.job(job_id).state for job_id in jobs} == {State.SUCCEEDED}
        assert not model_of(fleet).parked
        assert set(purchases(origin).values()) == {1}


def test_an_endpoint_that_drips_or_never_answers_is_left_after_its_time(make_fleet: MakeFleet) -> None:
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
        assert 2 <= (first.finished_at - first.started_at).total_seconds() < 15


def test_a_key_that_is_refused_in_the_middle_fails_no_job(make_fleet: MakeFleet) -> None:
    with simulator_process(fast=True) as origin:
        fleet = make_fleet(origin, concurrency=16)
        fleet.worker(concurrency=16)
        image = fleet.put_picture(small(), "in/small.png")
        jobs = [fleet.submit(image, f"key {n}") for n in range(200)]
        eventually(lambda: fleet.calls()["billed"] >= 50, what="50 were edited")
        fleet.knobs(keys=["another-key"])
        eventually(lambda: model_of(fleet).parked, what="the model is parked")
        reason = str(model_of(fleet).parked_reason)
        assert "401" in reason
        assert "STEP_API_KEY" in reason
        eventually(lambda: model_of(fleet).in_flight == 0, what="what was under way has ended")
        left = [job_id for job_id in jobs if fleet.job(job_id).state is not State.SUCCEEDED]
        assert left
        assert {fleet.job(job_id).state for job_id in left} <= {State.QUEUED, State.RUNNING}
        assert [tries(fleet, job_id) for job_id in left] == [0] * len(left)
        fleet.knobs(keys=["sim-key"])
        all_end(fleet, jobs)
        assert {fleet.job(job_id).state for job_id in jobs} == {State.SUCCEEDED}
        assert set(purchases(origin).values()) == {1}


def test_a_worker_killed_with_a_hundred_in_flight_costs_only_calls_that_were_under_way(make_fleet: MakeFleet) -> None:
    with simulator_process(latency_ms=3000, fast=True) as origin:
        fleet = make_fleet(origin, concurrency=100)
        victim = fleet.worker(concurrency=100)
        image = fleet.put_picture(small(), "in/small.png")
        jobs = {f"hundred {n}": fleet.submit(image, f"hundred {n}") for n in range(100)}
        # The first of a hundred may have ended before the last begins.
        eventually(lambda: fleet.calls()["calls"] == 100, what="100 calls have begun")
        victim.kill()
        answered = {name for name, job_id in jobs.items() if is_recorded(fleet, job_id)}
        fleet.worker(concurrency=100)
        all_end(fleet, list(jobs.values()), within_s=100)
        assert {fleet.job(job_id).state for job_id in jobs.values()} == {State.SUCCEEDED}
        bought = purchases(origin)
        assert set(bought) == set(jobs)
        assert max(bought.values()) == 2
        assert [name for name in answered if bought[name] > 1] == []


def is_recorded(fleet: Fleet, job_id: str) -> bool:
    """Whether the endpoint's answer was recorded, or used already."""
    record = fleet.domain.redis.hmget(fleet.domain.keys.job(job_id), "checkpoint", "output")
    return any(record)
