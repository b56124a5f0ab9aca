"""Serves the API on a free port, with a separate tenant for each test and a simulated worker that ends jobs."""

import hashlib
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from PIL import Image
from sse_starlette.sse import AppStatus

from api.app import create_app
from api.server import make_server
from jobs.foundation.job_states import State
from jobs.plan.records import Claim
from jobs.plan.settlement import OK, Settlement
from jobs.records.job_models import Output
from jobs.storage.object_keys import tenant_prefix
from jobs.wiring import Domain
from tests.support.waiting import eventually

_SKIMAGE = find_spec("skimage")
assert _SKIMAGE is not None
assert _SKIMAGE.origin is not None
PHOTOGRAPHS = Path(_SKIMAGE.origin).parent / "data"
ROCKET = (PHOTOGRAPHS / "rocket.jpg").read_bytes()
CHELSEA = (PHOTOGRAPHS / "chelsea.png").read_bytes()
PROMPT = "Put the rocket on a white background"
FILE = {"image": ("rocket.jpg", ROCKET, "image/jpeg")}
WORKER = "test-worker"


def encoded(width: int, height: int, kind: str = "PNG") -> bytes:
    """A plain grey picture of the given size."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "grey").save(buffer, kind)
    return buffer.getvalue()


def free_port() -> int:
    """An unused port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def served(domain: Domain) -> Iterator[str]:
    """Serve the API; yields its base URL."""
    server = make_server(create_app(domain), "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    eventually(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        # sse-starlette has one flag per process, but here one process starts many servers.
        AppStatus.should_exit = False
        assert not thread.is_alive()


@dataclass
class Api:
    """A served API and a client of one tenant.

    Attributes:
        domain: the domain of the API.
        http: an HTTP client with the tenant's API key.
        tenant: used by this test only.
    """

    domain: Domain
    http: httpx.Client
    tenant: str

    def objects(self) -> list[str]:
        """All object keys in the tenant's area of the bucket."""
        return list(self.domain.bucket.list_keys(self.domain.bucket.name, tenant_prefix(self.tenant)))

    def submit(self, files: Any = FILE, **fields: Any) -> httpx.Response:
        """Submit a photograph as multipart form."""
        return self.http.post("/v1/jobs", data={"prompt": PROMPT, **fields}, files=files)

    def submitted(self, **fields: Any) -> str:
        """Submit a photograph; returns the job's id."""
        answer = self.submit(**fields)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def state(self, job_id: str) -> State:
        """The job's current state."""
        return self.domain.job_reader.get(self.tenant, job_id).state

    def work(self) -> None:
        """Register a live worker, so that the plan starts jobs."""
        worker_info = {
            "host": "here",
            "pid": 1,
            "queues": ["edits"],
            "slots": 8,
            "draining": False,
            "seen_at": time.time(),
        }
        self.domain.planner.renew(WORKER, slots=8, worker_info=json.dumps(worker_info), held=[])

    def claim(self, job_id: str) -> Claim:
        """Claim the job's attempt as a worker does."""

        def starts() -> bool:
            # A worker is live for one lease after its heartbeat. A busy machine may exceed that.
            self.work()
            self.domain.edit_loop.dispatch()
            return self.state(job_id) is State.RUNNING

        eventually(starts)
        attempt = self.domain.redis.hget(self.domain.keys.job(job_id), "attempt")
        claim = self.domain.planner.claim(job_id, int(str(attempt)), WORKER)
        assert claim is not None
        return claim

    def settle(self, job_id: str, end: Settlement) -> None:
        """Claim the job and settle it."""
        assert self.domain.planner.settle(self.claim(job_id), end, finished_at=datetime.now(UTC))

    def succeed(self, job_id: str, data: bytes = CHELSEA, seed: int = 7) -> None:
        """Let the job succeed, with its output stored in the bucket."""
        bucket, key = self.domain.bucket.name, f"outputs/{job_id}.png"
        self.domain.bucket.put(bucket, key, data, media_type="image/png")
        output = Output(
            bucket=bucket,
            key=key,
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            media_type="image/png",
            width=451,
            height=300,
            seed=seed,
        )
        self.settle(job_id, Settlement.succeeded(output, signal=OK, trace_id="trace-1"))


@contextmanager
def api_of(domain: Domain) -> Iterator[Api]:
    """Serve an API with a new tenant."""
    with served(domain) as url, tenant_at(domain, url) as api:
        yield api


@contextmanager
def tenant_at(domain: Domain, url: str) -> Iterator[Api]:
    """A new tenant of an API that is already served."""
    tenant = f"t{uuid4().hex}"
    key = domain.api_keys.create(tenant)
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:
        yield Api(domain, client, tenant)


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The body of a response, which must be a problem with this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["type"].startswith("urn:retouch:problem:")
    assert body["title"]
    assert body["detail"]
    return body


def fields_of(body: dict[str, Any]) -> set[str]:
    """The fields that a problem names."""
    return {error["field"] for error in body.get("errors", [])}


def endpoint_at(api: Api, url: str, **fields: Any) -> dict[str, Any]:
    """Create an endpoint; returns the response body, which includes the secret."""
    answer = api.http.post("/v1/webhooks", json={"url": url, **fields})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/webhooks/{body['id']}"
    return body
