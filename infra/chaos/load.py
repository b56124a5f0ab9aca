"""The load of a chaos run: simulated users, and a receiver for their webhooks."""

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
"""The event types of each tenant's endpoint."""
CANCELED_SHARE = 0.1
"""Share of single jobs that the user cancels."""
INLINE_MODEL = "qwen-image-edit"
"""A model whose answers contain the picture instead of a URL."""
_UNAVAILABLE = (RedisError, Unavailable, StorageFailed, Unreachable)
_NO_RETRY = Patience(tries=1)

T = TypeVar("T")


def inline_model_toml(origin: str) -> str:
    """Return a catalogue entry for the second model, which uses the same simulator."""
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
    """A kind of job, with its expected outcome.

    Attributes:
        directive: directive for the simulator, at the start of the prompt.
        weight: relative frequency.
        final_state: expected final state of the job.
        unusable_answer: the first answer is paid but unusable, so a second purchase is correct.
        model: model of the job.
    """

    directive: str
    weight: int
    final_state: State = State.SUCCEEDED
    unusable_answer: bool = False
    model: str = MODEL


KINDS = (
    Kind("", 60),
    Kind("[sim:latency=1500] ", 6),
    Kind("[sim:fail=503*1] ", 5),
    Kind("[sim:reset*1] ", 4),
    Kind("[sim:429conc*1] ", 1),
    Kind("[sim:download_fail*2] ", 5),
    Kind("[sim:download_truncate*1] ", 4),
    Kind("[sim:truncate*1] ", 3, unusable_answer=True),
    Kind("[sim:badimage*1] ", 3, unusable_answer=True),
    Kind("[sim:censored] ", 4, State.FILTERED),
    Kind("[sim:fail=400] ", 4, State.FAILED),
    Kind("", 12, model=INLINE_MODEL),
    Kind("[sim:fail=503*1] ", 2, model=INLINE_MODEL),
    Kind("[sim:badimage*1] ", 1, unusable_answer=True, model=INLINE_MODEL),
    Kind("[sim:fail=400] ", 1, State.FAILED, model=INLINE_MODEL),
)


@dataclass(frozen=True)
class SubmittedJob:
    """An accepted job; its `prompt` is unique."""

    job_id: str
    tenant: str
    prompt: str
    kind: Kind
    single: bool


class Feeder:
    """Simulated users. They repeat each request until the API accepts it.

    Args:
        api: origin of the API.
        domain: creates the API keys and uploads the pictures.
        seed: seed of all random choices.

    Attributes:
        submitted: all accepted jobs.
        batches: tenant and id of every batch.
        canceled: ids of jobs that a user tried to cancel.
        retried: ids of jobs that a user canceled and then tried to retry.
    """

    def __init__(self, api: str, domain: Domain, seed: int) -> None:
        self._domain = domain
        self._rng = random.Random(f"load {seed}")  # noqa: S311 - no secret
        keys = {tenant: domain.api_keys.create(tenant) for tenant in SUBSCRIBED}
        self._clients = {tenant: Client(api, key, patience=_NO_RETRY) for tenant, key in keys.items()}
        self._images: list[str] = []
        self._number = 0
        self.submitted: list[SubmittedJob] = []
        self.batches: list[tuple[str, str]] = []
        self.canceled: set[str] = set()
        self.retried: set[str] = set()

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()

    def upload_pictures(self) -> None:
        """Upload the input pictures to the bucket."""
        bucket = self._domain.settings.s3_bucket
        for number in range(3):
            encoded = io.BytesIO()
            Image.new("RGB", (40 + 8 * number, 32), (60 * number, 120, 90)).save(encoded, "PNG")
            key = f"chaos/{number}.png"
            self._domain.bucket.put(bucket, key, encoded.getvalue(), media_type="image/png")
            self._images.append(f"s3://{bucket}/{key}")

    def wave(self, singles: int, rows: int) -> None:
        """Submit a batch per tenant, paused at first, and single jobs; cancel some of these."""
        paused = [self._batch(tenant, rows) for tenant in SUBSCRIBED] if rows else []
        for tenant, batch_id in paused:
            self._try(partial(self._clients[tenant].batches.pause, batch_id))
        for _ in range(singles):
            job = self._single(self._rng.choice(list(SUBSCRIBED)))
            if self._rng.random() < CANCELED_SHARE:
                self._cancel(job)
        for tenant, batch_id in paused:
            self._try(partial(self._clients[tenant].batches.resume, batch_id))

    def _choose(self) -> tuple[Kind, dict[str, Any]]:
        """Choose the kind of a job and its fields."""
        kind = self._rng.choices(KINDS, [kind.weight for kind in KINDS])[0]
        self._number += 1
        fields: dict[str, Any] = {
            "custom_id": f"chaos-{self._number}",
            "model": kind.model,
            "prompt": f"{kind.directive}chaos {self._number}",
            "image": self._rng.choice(self._images),
            "seed": 1,
        }
        return kind, fields

    def _single(self, tenant: str) -> SubmittedJob:
        kind, fields = self._choose()
        idempotency_key = f"single {self._number}"
        job = retry_while_unavailable(lambda: self._clients[tenant].submit(**fields, idempotency_key=idempotency_key))
        self.submitted.append(SubmittedJob(job.id, tenant, fields["prompt"], kind, single=True))
        return self.submitted[-1]

    def _batch(self, tenant: str, rows: int) -> tuple[str, str]:
        chosen = [self._choose() for _ in range(rows)]
        items, key = [fields for _, fields in chosen], f"batch {self._number}"
        batch = retry_while_unavailable(lambda: self._clients[tenant].batches.submit(items=items, idempotency_key=key))
        self.batches.append((tenant, batch.id))
        self.submitted += [
            SubmittedJob(batch_job_id(batch.id, row), tenant, fields["prompt"], kind, single=False)
            for row, (kind, fields) in enumerate(chosen, 1)
        ]
        return self.batches[-1]

    def _cancel(self, job: SubmittedJob) -> None:
        """Cancel a job after a random delay, and retry half of the canceled ones."""
        client, retry = self._clients[job.tenant], self._rng.random() < 0.5
        time.sleep(self._rng.uniform(0, 0.2))
        self.canceled.add(job.job_id)
        if self._try(lambda: client.cancel(job.job_id)) and retry:
            self.retried.add(job.job_id)
            self._try(lambda: client.retry(job.job_id))

    def _try(self, step: Callable[[], object]) -> bool:
        """Return False on a conflict. The step may have succeeded even then, if the first answer was lost."""
        try:
            retry_while_unavailable(step)
        except ProblemError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            return False
        return True


def retry_while_unavailable(step: Callable[[], T], timeout_s: float = 120) -> T:
    """Run a step, and repeat it while a server or the API is unavailable.

    Raises:
        Exception: the step failed for another reason, or the timeout is over.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return step()
        except (*_UNAVAILABLE, ProblemError) as error:
            rejected = isinstance(error, ProblemError) and error.status != HTTPStatus.SERVICE_UNAVAILABLE
            if rejected or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


class Inbox:
    """Counts the deliveries of each event, by tenant, type and the id of its subject."""

    def __init__(self) -> None:
        self.url = ""
        self.secrets: dict[str, str] = {}
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.invalid = 0
        self._lock = threading.Lock()

    def subscribe(self, domain: Domain) -> None:
        """Create one endpoint per tenant.

        Raises:
            RetouchError: the endpoint is invalid.
        """
        for tenant, types in SUBSCRIBED.items():
            domain.tenants.ensure(tenant)
            endpoint = domain.endpoints.create(tenant, EndpointFields(url=f"{self.url}/{tenant}", events=list(types)))
            self.secrets[tenant] = endpoint.secret

    def receive(self, tenant: str, headers: dict[str, str], body: bytes) -> None:
        """Count a request by its event, or as invalid."""
        try:
            Webhook(self.secrets[tenant]).verify(body, headers)
        except Exception:  # noqa: BLE001 - the library raises several types
            with self._lock:
                self.invalid += 1
            return
        event = json.loads(body)
        with self._lock:
            self.counts[tenant, event["type"], str(event["data"]["id"])] += 1

    def missing(self, expected: set[tuple[str, str, str]]) -> set[tuple[str, str, str]]:
        """Return the expected events that were not delivered."""
        with self._lock:
            return expected - set(self.counts)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections that a killed sender resets; print other errors."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def receiving() -> Iterator[Inbox]:
    """Run a receiver on a free loopback port; each tenant's URL is `/TENANT`."""
    inbox = Inbox()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            inbox.receive(self.path.strip("/"), headers, body)
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
