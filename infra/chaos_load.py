"""The load of a chaos run: jobs whose prompts say what shall happen to them, and a receiver of what is told of them."""

import csv
import hashlib
import io
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

from PIL import Image
from redis.exceptions import RedisError
from standardwebhooks import Webhook

from infra.stand import MODEL
from jobs.batch_models import BatchOptions
from jobs.batch_submission import Upload, submit_batch
from jobs.domain import Domain
from jobs.endpoint_records import EndpointFields
from jobs.errors import StorageFailed, Unavailable
from jobs.ids import batch_job_id, new_job_id
from jobs.models import Input, JobSpec
from jobs.plan_records import Draft, Idempotency
from jobs.states import State

SUBSCRIBED = {
    "acme": ("job.succeeded", "job.filtered", "job.failed", "job.canceled", "batch.completed"),
    "globex": ("job.succeeded", "batch.completed"),
}
"""The tenants, and what each wants to be told."""
AWAY = (RedisError, Unavailable, StorageFailed)

T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """What shall happen to a job.

    Attributes:
        directive: of the simulator, at the head of the prompt.
        weight: how often it is asked for.
        ends: the job's state at the end.
        spoils: its first answer is paid for and of no use, so that another call is right.
    """

    directive: str
    weight: int
    ends: State = State.SUCCEEDED
    spoils: bool = False


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
    """Submits jobs, insisting while a store is away: what it lists was accepted.

    Args:
        domain: where to.
        seed: of every choice.
    """

    def __init__(self, domain: Domain, seed: int) -> None:
        self._domain = domain
        self._rng = random.Random(f"load {seed}")  # noqa: S311 - no secret
        self._images: list[str] = []
        self._number = 0
        self.asked: list[Asked] = []
        self.batches: list[tuple[str, str]] = []
        """Tenant and id."""

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
        """Single jobs in tens, and one batch a tenant."""
        for tenant in SUBSCRIBED:
            if rows:
                self._batch(tenant, rows)
        for start in range(0, singles, 10):
            self._singles(self._rng.choice(list(SUBSCRIBED)), min(10, singles - start))

    def _choose(self) -> tuple[str, Kind, str]:
        kind = self._rng.choices(KINDS, [one.weight for one in KINDS])[0]
        self._number += 1
        return f"{kind.directive}chaos {self._number}", kind, self._rng.choice(self._images)

    def _singles(self, tenant: str, count: int) -> None:
        drafts, asked = [], []
        for _ in range(count):
            prompt, kind, image = self._choose()
            spec = JobSpec.model_validate({"model": MODEL, "prompt": prompt, "image": image, "seed": 1})
            drafts.append(Draft(new_job_id(), spec, Input(image=image)))
            asked.append(Asked(drafts[-1].job_id, tenant, prompt, kind, single=True))
        once = Idempotency(digest(f"singles {self._number}"), digest(tenant))
        insist(lambda: self._domain.planner.submit(drafts, tenant=tenant, idempotency=once))
        with suppress(RedisError):
            self._domain.broker.dispatch()
        self.asked += asked

    def _batch(self, tenant: str, rows: int) -> None:
        chosen = [self._choose() for _ in range(rows)]
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(["custom_id", "image", "prompt"])
        for number, (prompt, _, image) in enumerate(chosen):
            table.writerow([f"{self._number}-{number}", image, prompt])
        data = text.getvalue().encode()
        sha256 = hashlib.sha256(data).hexdigest()
        once = f"batch {self._number}"
        batch_id = insist(
            lambda: submit_batch(
                self._domain,
                BatchOptions(),
                tenant=tenant,
                upload=Upload("m.csv", [data], sha256),
                idempotency_key=once,
            )
        ).batch_id
        self.batches.append((tenant, batch_id))
        self.asked += [
            Asked(batch_job_id(batch_id, row), tenant, prompt, kind, single=False)
            for row, (prompt, kind, _) in enumerate(chosen, 1)
        ]


def insist(step: Callable[[], T], within_s: float = 120) -> T:
    """Do a step; while a store is away, do it again.

    Raises:
        RetouchError, RedisError: it was away for too long, or said no.
    """
    deadline = time.monotonic() + within_s
    while True:
        try:
            return step()
        except AWAY:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def digest(text: str) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


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
