"""The load of a chaos run: jobs whose prompts say what shall happen to them, and a receiver of what is told of them."""

import io
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

from PIL import Image
from redis.exceptions import RedisError
from standardwebhooks import Webhook

from infra.local.harness import MODEL
from jobs.foundation.errors import StorageFailed, Unavailable
from jobs.foundation.ids import batch_job_id
from jobs.foundation.job_states import State
from jobs.webhooks.endpoint_models import EndpointFields
from jobs.wiring import Domain
from retouch.client import Client
from retouch.errors import ProblemError, Unreachable
from retouch.transport import Patience

SUBSCRIBED = {
    "acme": ("job.succeeded", "job.filtered", "job.failed", "job.canceled", "batch.completed"),
    "globex": ("job.succeeded", "batch.completed"),
}
"""The tenants, and what each wants to be told."""
CANCELED_SHARE = 0.1
"""Of single jobs."""
INLINE_MODEL = "qwen-image-edit"
"""Whose answers are the picture itself, not an address of it."""
_AWAY = (RedisError, Unavailable, StorageFailed, Unreachable)
_ONCE = Patience(tries=1)

T = TypeVar("T")


def inline_model_toml(origin: str) -> str:
    """The second model of the catalogue, of the same simulator."""
    return f"""
[models.{INLINE_MODEL}]
dialect = "openai"
base_url = "{origin}/v1"
api_key_env = "STEP_API_KEY"
concurrency = 16
rpm = 60000
timeout_s = 15
keeps_size = true
parameters.seed = {{ type = "integer" }}
"""


@dataclass(frozen=True)
class Kind:
    """What shall happen to a job.

    Attributes:
        directive: of the simulator, at the head of the prompt.
        weight: how often it is asked for.
        ends: the job's state at the end.
        spoils: its first answer is paid for and of no use, so that another call is right.
        model: that edits it.
    """

    directive: str
    weight: int
    ends: State = State.SUCCEEDED
    spoils: bool = False
    model: str = MODEL


KINDS = (
    Kind("", 60),
    Kind("[sim:latency=1500] ", 6),
    Kind("[sim:fail=503*1] ", 5),
    Kind("[sim:reset*1] ", 4),
    Kind("[sim:429conc*1] ", 1),
    Kind("[sim:download_fail*2] ", 5),
    Kind("[sim:download_truncate*1] ", 4),
    Kind("[sim:truncate*1] ", 3, spoils=True),
    Kind("[sim:badimage*1] ", 3, spoils=True),
    Kind("[sim:censored] ", 4, State.FILTERED),
    Kind("[sim:fail=400] ", 4, State.FAILED),
    Kind("", 12, model=INLINE_MODEL),
    Kind("[sim:fail=503*1] ", 2, model=INLINE_MODEL),
    Kind("[sim:badimage*1] ", 1, spoils=True, model=INLINE_MODEL),
    Kind("[sim:fail=400] ", 1, State.FAILED, model=INLINE_MODEL),
)


@dataclass(frozen=True)
class Asked:
    """A job that was accepted; `prompt` is its alone."""

    job_id: str
    tenant: str
    prompt: str
    kind: Kind
    single: bool


class Feeder:
    """Users: they submit through the API and insist while it is away, so what is listed here was accepted.

    Args:
        api: its origin.
        domain: gives them keys, and a place for their pictures.
        seed: of every choice.

    Attributes:
        asked: every job.
        batches: tenant and id of every batch.
        canceled: ids of jobs that somebody wanted to cancel.
        retried: ids of jobs that somebody canceled and wanted tried again.
    """

    def __init__(self, api: str, domain: Domain, seed: int) -> None:
        self._domain = domain
        self._rng = random.Random(f"load {seed}")  # noqa: S311 - no secret
        keys = {tenant: domain.tenants.create_key(tenant) for tenant in SUBSCRIBED}
        self._clients = {tenant: Client(api, key, patience=_ONCE) for tenant, key in keys.items()}
        self._images: list[str] = []
        self._number = 0
        self.asked: list[Asked] = []
        self.batches: list[tuple[str, str]] = []
        self.canceled: set[str] = set()
        self.retried: set[str] = set()

    def close(self) -> None:
        """Close their connections."""
        for client in self._clients.values():
            client.close()

    def keep_pictures(self) -> None:
        """Put the inputs into the bucket."""
        bucket = self._domain.settings.s3_bucket
        for number in range(3):
            held = io.BytesIO()
            Image.new("RGB", (40 + 8 * number, 32), (60 * number, 120, 90)).save(held, "PNG")
            key = f"chaos/{number}.png"
            self._domain.bucket.put(bucket, key, held.getvalue(), media_type="image/png")
            self._images.append(f"s3://{bucket}/{key}")

    def wave(self, singles: int, rows: int) -> None:
        """Single jobs, and one batch a tenant, which is paused for as long as they are submitted; some are canceled."""
        paused = [self._batch(tenant, rows) for tenant in SUBSCRIBED] if rows else []
        for tenant, batch_id in paused:
            self._try(partial(self._clients[tenant].batches.pause, batch_id))
        for _ in range(singles):
            one = self._single(self._rng.choice(list(SUBSCRIBED)))
            if self._rng.random() < CANCELED_SHARE:
                self._cancel(one)
        for tenant, batch_id in paused:
            self._try(partial(self._clients[tenant].batches.resume, batch_id))

    def _choose(self) -> tuple[Kind, dict[str, Any]]:
        """What shall happen to a job, and its fields."""
        kind = self._rng.choices(KINDS, [one.weight for one in KINDS])[0]
        self._number += 1
        fields: dict[str, Any] = {
            "custom_id": f"chaos-{self._number}",
            "model": kind.model,
            "prompt": f"{kind.directive}chaos {self._number}",
            "image": self._rng.choice(self._images),
            "seed": 1,
        }
        return kind, fields

    def _single(self, tenant: str) -> Asked:
        kind, fields = self._choose()
        once = f"single {self._number}"
        job = insist(lambda: self._clients[tenant].submit(**fields, idempotency_key=once))
        self.asked.append(Asked(job.id, tenant, fields["prompt"], kind, single=True))
        return self.asked[-1]

    def _batch(self, tenant: str, rows: int) -> tuple[str, str]:
        chosen = [self._choose() for _ in range(rows)]
        items, once = [fields for _, fields in chosen], f"batch {self._number}"
        batch = insist(lambda: self._clients[tenant].batches.submit(items=items, idempotency_key=once))
        self.batches.append((tenant, batch.id))
        self.asked += [
            Asked(batch_job_id(batch.id, row), tenant, fields["prompt"], kind, single=False)
            for row, (kind, fields) in enumerate(chosen, 1)
        ]
        return self.batches[-1]

    def _cancel(self, one: Asked) -> None:
        """Cancel a job at a moment of its own, and have every second one tried again."""
        client, again = self._clients[one.tenant], self._rng.random() < 0.5
        time.sleep(self._rng.uniform(0, 0.2))
        self.canceled.add(one.job_id)
        if self._try(lambda: client.cancel(one.job_id)) and again:
            self.retried.add(one.job_id)
            self._try(lambda: client.retry(one.job_id))

    def _try(self, step: Callable[[], object]) -> bool:
        """Whether it was done. It may have been where it was not: the answer was lost, and it cannot be done twice."""
        try:
            insist(step)
        except ProblemError as refused:
            if refused.status != HTTPStatus.CONFLICT:
                raise
            return False
        return True


def insist(step: Callable[[], T], within_s: float = 120) -> T:
    """Do a step; while a store or the API is away, do it again.

    Raises:
        Exception: it was away for too long, or said no.
    """
    deadline = time.monotonic() + within_s
    while True:
        try:
            return step()
        except (*_AWAY, ProblemError) as error:
            said_no = isinstance(error, ProblemError) and error.status != HTTPStatus.SERVICE_UNAVAILABLE
            if said_no or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


class Inbox:
    """What the receiver was told: how often each event came, by tenant, type and the id of its subject."""

    def __init__(self) -> None:
        self.url = ""
        self.secrets: dict[str, str] = {}
        self.told: Counter[tuple[str, str, str]] = Counter()
        self.forged = 0
        self._lock = threading.Lock()

    def subscribe(self, domain: Domain) -> None:
        """Make an endpoint a tenant.

        Raises:
            RetouchError: it is refused.
        """
        for tenant, types in SUBSCRIBED.items():
            domain.tenants.ensure(tenant)
            made = domain.endpoints.create(tenant, EndpointFields(url=f"{self.url}/{tenant}", events=list(types)))
            self.secrets[tenant] = made.secret

    def take(self, tenant: str, headers: dict[str, str], body: bytes) -> None:
        """Note one request whose signature holds."""
        try:
            Webhook(self.secrets[tenant]).verify(body, headers)
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it does not count
            with self._lock:
                self.forged += 1
            return
        event = json.loads(body)
        with self._lock:
            self.told[tenant, event["type"], str(event["data"]["id"])] += 1

    def missing(self, wanted: set[tuple[str, str, str]]) -> set[tuple[str, str, str]]:
        """What has not come."""
        with self._lock:
            return wanted - set(self.told)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that was killed resets its connection; anything else is told."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def receiving() -> Iterator[Inbox]:
    """A receiver on a free port of loopback, at `/TENANT`."""
    inbox = Inbox()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            inbox.take(self.path.strip("/"), headers, body)
            self.send_response(204)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    inbox.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield inbox
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
