"""Requests that wait for a job: they return at once when it ends, block no thread, and survive lost connections."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from api import waiting
from api.app import create_app
from api.server import make_server
from infra.local.embedded_servers import Valkey
from jobs.foundation.errors import Transient
from jobs.foundation.job_states import State
from jobs.plan.settlement import Settlement
from jobs.wiring import Domain
from tests.support.api_server import FILE, PROMPT, Api, api_of
from tests.support.waiting import eventually

WAIT = {"Prefer": "wait=60"}


def the_only_job(api: Api) -> str:
    jobs = eventually(lambda: api.domain.job_reader.page(api.tenant).data)
    assert len(jobs) == 1
    return str(jobs[0].id)


def listeners(api: Api, job_id: str) -> int:
    channel = api.domain.keys.final_channel(job_id)
    return int(api.domain.redis.pubsub_numsub(channel)[0][1])


def waited(api: Api, **headers: str) -> httpx.Response:
    return api.http.post("/v1/jobs", data={"prompt": PROMPT}, files=FILE, headers={**WAIT, **headers})


def test_a_waiting_submit_returns_when_its_job_ends(api: Api, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(waiting, "REREAD_S", 3600)  # only the notice can end the wait
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(waited, api)
        job_id = the_only_job(api)
        eventually(lambda: listeners(api, job_id))
        assert not answer.done()
        api.succeed(job_id)
        final = answer.result(120)
    assert final.status_code == 200
    assert final.headers["preference-applied"] == "wait=60"
    assert final.headers["location"] == f"/v1/jobs/{job_id}"
    assert final.json()["state"] == "succeeded"
    assert final.json()["output"]["url"]
    eventually(lambda: listeners(api, job_id) == 0)


def test_a_job_that_fails_ends_the_wait_too(api: Api):
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(waited, api)
        job_id = the_only_job(api)
        api.settle(job_id, Settlement.failed(Transient("the endpoint is down")))
        assert answer.result(120).status_code == 200
        assert answer.result().json()["state"] == "failed"


def test_a_timed_out_wait_returns_the_job_as_it_is(api: Api):
    for seconds in (0, 1):
        answer = api.http.post(
            "/v1/jobs", data={"prompt": PROMPT}, files=FILE, headers={"Prefer": f"respond-async, wait={seconds}"}
        )
        assert answer.status_code == 202
        assert answer.headers["preference-applied"] == f"wait={seconds}"
        assert answer.json()["state"] == "queued"


def test_a_replayed_submit_waits_for_the_original_job(api: Api):
    key = {"Idempotency-Key": "once"}
    first = waited(api, **key, Prefer="wait=0")
    api.succeed(first.json()["id"])
    again = waited(api, **key)
    assert again.status_code == 200
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["state"] == "succeeded"


def test_a_hundred_waiting_requests_block_no_threads(api: Api):
    job_id = api.submitted()
    url, headers = str(api.http.base_url), dict(api.http.headers)
    body = {"image": "https://pictures.example/a.jpg", "prompt": PROMPT}

    async def scene() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120, limits=limits) as client:
            waits = [asyncio.create_task(client.post("/v1/jobs", json=body, headers=WAIT)) for _ in range(100)]
            while len((await client.get("/v1/jobs", params={"limit": 200})).json()["data"]) < 101:
                assert not any(wait.done() for wait in waits)
            assert (await client.get(f"/v1/jobs/{job_id}")).status_code == 200
            for job in (await client.get("/v1/jobs", params={"limit": 200})).json()["data"]:
                await client.post(f"/v1/jobs/{job['id']}/cancel")
            return await asyncio.gather(*waits)

    answers = asyncio.run(scene())
    assert {answer.json()["state"] for answer in answers} == {"canceled"}
    assert {answer.status_code for answer in answers} == {200}


def test_a_lost_subscription_is_restored(api: Api, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(waiting, "REREAD_S", 3600)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(waited, api)
        job_id = the_only_job(api)
        eventually(lambda: listeners(api, job_id))
        for client in api.domain.redis.client_list(_type="pubsub"):
            if client["name"] == "retouch-api-notices":
                api.domain.redis.client_kill_filter(_id=client["id"])
        api.domain.planner.cancel(job_id)
        assert answer.result(120).json()["state"] == "canceled"


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path / "own-valkey") as server:
        yield server


def test_a_waiting_request_survives_a_restart_of_redis(make_settings: Callable[..., Any], own_valkey: Valkey):
    domain = Domain.open(make_settings(redis_url=SecretStr(own_valkey.url), broker_url=SecretStr(own_valkey.url_of(1))))
    try:
        domain.planner.register_models()
        with api_of(domain) as api, ThreadPoolExecutor(1) as pool:
            answer = pool.submit(waited, api)
            job_id = the_only_job(api)
            eventually(lambda: listeners(api, job_id))
            own_valkey.kill()
            own_valkey.restart()
            assert api.state(job_id) is State.QUEUED
            eventually(lambda: listeners(api, job_id))
            assert not answer.done()
            domain.planner.cancel(job_id)
            assert answer.result(120).json()["state"] == "canceled"
    finally:
        domain.close()


def test_a_shutdown_ends_all_waits(domain: Domain):
    key = domain.api_keys.create("acme")
    server = make_server(create_app(domain), "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    eventually(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(
            httpx.post,
            f"http://127.0.0.1:{port}/v1/jobs",
            headers={"Authorization": f"Bearer {key}", "Prefer": "wait=120"},
            json={"image": "https://pictures.example/a.jpg", "prompt": PROMPT},
            timeout=120,
        )
        eventually(lambda: domain.job_reader.page("acme").data)
        server.handle_exit(signal.SIGTERM, None)
        assert answer.result(120).status_code == 202
    thread.join(120)
    assert not thread.is_alive()
