"""Outages of Redis, the broker and the bucket: no job is lost, uses up a try, or is paid twice."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image
from pydantic import SecretStr
from redis import Redis

from infra.local.embedded_servers import SeaweedFS, Valkey
from infra.local.harness import MODEL, api_process, simulator_process
from infra.local.ports import Ports
from jobs.foundation.job_states import State
from jobs.foundation.settings import Settings
from tests.support.api_server import served
from tests.support.faults import MakeFleet, MakeSettings, all_end, outcomes, outlast, purchases, small, tries
from tests.support.waiting import eventually


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey that the test may kill."""
    with Valkey(tmp_path) as server:
        yield server


@pytest.fixture
def bucket(tmp_path: Path, seaweedfs: SeaweedFS) -> Iterator[SeaweedFS]:
    """A SeaweedFS that the test may kill; it accepts the session's credentials."""
    with SeaweedFS(tmp_path, access_key=seaweedfs.access_key, secret_key=seaweedfs.secret_key) as server:
        yield server


def settings_on(server: Valkey, make_settings: MakeSettings) -> Settings:
    return make_settings(redis_url=SecretStr(server.url), broker_url=SecretStr(server.url_of(1)))


def test_a_redis_outage_longer_than_a_lease_repeats_no_attempt(
    store: Valkey, make_settings: MakeSettings, make_fleet: MakeFleet
) -> None:
    with simulator_process(latency_ms=1500, fast=True) as origin:
        settings = settings_on(store, make_settings)
        fleet = make_fleet(origin, settings)
        workers = [fleet.worker(queues="edits,webhooks"), fleet.worker()]
        image = fleet.put_picture(small(), "in/small.png")
        key = fleet.domain.api_keys.create("acme")
        with (
            served(fleet.domain) as url,
            httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60) as api,
        ):
            jobs = [fleet.submit(image, f"outage {n}") for n in range(24)]
            eventually(lambda: fleet.calls()["calls"] >= 8, what="8 calls have begun")
            store.kill()

            def answers_503() -> bool:
                answer = api.post("/v1/jobs", json={"prompt": "while it is away", "image": image})
                return answer.status_code == 503 and int(answer.headers["retry-after"]) > 0

            outlast(settings.lease_s + 2, answers_503)
            store.restart()
            accepted = eventually(
                lambda: (
                    (answer := api.post("/v1/jobs", json={"prompt": "it is back", "image": image})).is_success
                    and answer
                ),
                what="the API accepts jobs again",
            )
            jobs.append(accepted.json()["id"])
            all_end(fleet, jobs)
        assert {fleet.job(job_id).state for job_id in jobs} == {State.SUCCEEDED}
        assert Counter(name for job_id in jobs for name in outcomes(fleet, job_id)) == {"succeeded": len(jobs)}
        assert set(purchases(origin).values()) == {1}
        assert [worker.process.poll() for worker in workers] == [None, None]
        eventually(lambda: len(fleet.domain.status.workers()) == 2, what="both workers are registered again")


def test_an_api_that_starts_without_redis_answers_503_until_redis_is_back(
    store: Valkey, make_settings: MakeSettings, make_fleet: MakeFleet, tmp_path: Path
) -> None:
    fleet = make_fleet(settings=settings_on(store, make_settings))
    key = fleet.domain.api_keys.create("acme")
    image = fleet.put_picture(small(), "in/small.png")
    model = fleet.domain.keys.model(MODEL)
    fleet.domain.redis.delete(model)
    store.kill()
    port = Ports().choose("api")
    server = api_process(fleet.domain.settings, tmp_path / "api.log", port)
    headers = {"authorization": f"Bearer {key}"}
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, trust_env=False) as api:

            def lives() -> bool:
                try:
                    return api.get("/livez").is_success
                except httpx.ConnectError:
                    return False

            server.wait_until(lives)
            refused = api.post("/v1/jobs", json={"prompt": "too early", "image": image})
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) > 0
            store.restart()
            eventually(
                lambda: api.post("/v1/jobs", json={"prompt": "in time", "image": image}).is_success,
                what="the API accepts jobs",
            )
            eventually(lambda: fleet.domain.redis.exists(model), what="the models are registered")
    finally:
        server.close()


def test_a_redis_that_hangs_longer_than_a_lease_repeats_no_attempt(
    store: Valkey, make_settings: MakeSettings, make_fleet: MakeFleet
) -> None:
    with simulator_process(latency_ms=1000, fast=True) as origin:
        settings = settings_on(store, make_settings)
        fleet = make_fleet(origin, settings)
        worker = fleet.worker()
        image = fleet.put_picture(small(), "in/small.png")
        jobs = [fleet.submit(image, f"hang {n}") for n in range(20)]
        eventually(lambda: fleet.calls()["calls"] >= 8, what="8 calls have begun")

        def worker_lives() -> bool:
            return worker.process.poll() is None

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


def test_jobs_in_a_flushed_broker_run_again_after_a_lease_without_a_try(
    valkey: Valkey, make_settings: MakeSettings, make_fleet: MakeFleet
) -> None:
    settings = make_settings(broker_url=SecretStr(valkey.url_of(5)), key_prefix="flush:")
    fleet = make_fleet(settings=settings, rpm=60_000)
    worker = fleet.worker(concurrency=12)
    image = fleet.put_picture(small(), "in/small.png")
    fleet.ended(fleet.submit(image, "before the flush"))
    broker = Redis.from_url(valkey.url_of(5))
    os.kill(worker.process.pid, signal.SIGSTOP)
    try:
        jobs = [fleet.submit(image, f"flushed {n}") for n in range(16)]
        # Twelve messages were published; the worker's socket may hold one or two of them already.
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
def test_results_during_a_bucket_outage_use_no_try_and_are_paid_once(
    dialect: str, bucket: SeaweedFS, make_settings: MakeSettings, make_fleet: MakeFleet
) -> None:
    # On a busy machine, too, six calls begin before the first is answered.
    with simulator_process(latency_ms=8000, fast=True) as origin:
        settings = make_settings(s3_endpoint_url=bucket.endpoint_url, s3_bucket=bucket.bucket)
        dialect_fields = {"openai": {"dialect": "openai", "provider_model": "gpt-image-1.5"}, "stepfun": {}}[dialect]
        fleet = make_fleet(origin, settings, **dialect_fields)
        fleet.worker()
        image = fleet.put_picture(small(), "in/small.png")
        jobs = [fleet.submit(image, f"bought {n}", seed=None) for n in range(6)]
        eventually(lambda: fleet.calls()["in_flight"] == 6, what="6 calls are in flight")
        bucket.kill()
        fleet.knobs(latency_ms=100)
        eventually(lambda: fleet.calls()["in_flight"] == 0, what="the endpoint has answered")
        later = [fleet.submit(image, f"not fetched {n}", seed=None) for n in range(2)]
        eventually(
            lambda: all(len(outcomes(fleet, job_id)) >= 2 for job_id in later),
            what="two fetches of each input have failed",
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
