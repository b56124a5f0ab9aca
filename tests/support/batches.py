"""Batches over a real domain: background tasks run at once, and jobs end as the test wants."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Retry

from jobs.batches.manifests.columns import ManifestFault
from jobs.batches.models import Batch, BatchOptions, BatchRequest
from jobs.batches.submission import Upload
from jobs.foundation.errors import Filtered, RequestRefused
from jobs.foundation.ids import batch_job_id
from jobs.foundation.job_states import State
from jobs.foundation.settings import Settings
from jobs.plan.records import Claim, Dispatch
from jobs.plan.settlement import OK, Settlement
from jobs.queueing.background_tasks import TaskKind
from jobs.records.job_models import Job, Output
from jobs.wiring import Domain
from workers.background.tasks import register_background_tasks
from workers.process.wiring import build_background_tasks

CATALOGUE = """
[models.step-image-edit-2]
dialect = "stepfun"
base_url = "http://127.0.0.1:9/v1"
concurrency = 1000
rpm = 1000000
price_usd = 0.003
"""
PROMPT = "Put it on a white background"
WORKER = "harness"
IMAGE = "s3://{bucket}/pictures/{number}.png"


@contextmanager
def generous(make_settings: Callable[..., Settings], tmp_path: Path) -> Iterator[Domain]:
    """A domain whose only model permits any number of calls, with the tenants `acme` and `globex`."""
    config = tmp_path / "retouch.toml"
    config.write_text(CATALOGUE)
    opened = Domain.open(make_settings(config=config))
    opened.planner.register_models()
    for tenant in ("acme", "globex"):
        opened.tenants.ensure(tenant)
    yield opened
    opened.close()


class BatchHarness:
    """Does a fleet's work for batches, one step at a time."""

    def __init__(self, domain: Domain, tenant: str = "acme", slots: int = 1000) -> None:
        self.domain = domain
        self.tenant = tenant
        self._tasks: dict[TaskKind, Callable[[str], str]] = {}
        app = Celery("harness", set_as_current=False)
        register_background_tasks(app, build_background_tasks(domain))
        self._tasks = {kind: app.tasks[kind.value] for kind in TaskKind if kind.value in app.tasks}
        self.slots = slots

    def csv(self, rows: int, *, header: str = "custom_id,image", line: str = "SKU-{n},s3://{b}/in/{n}.png") -> bytes:
        bucket = self.domain.settings.s3_bucket
        return "\n".join([header, *(line.format(n=n, b=bucket) for n in range(1, rows + 1))]).encode() + b"\n"

    def upload(self, data: bytes, prompt: str | None = PROMPT, **options: Any) -> str:
        """Submit a manifest; its rows are not read yet."""
        defaults = {"prompt": prompt, **options.pop("defaults", {})} if prompt else options.pop("defaults", {})
        request = BatchOptions.model_validate({"defaults": defaults, **options})
        manifest = Upload("m.csv", [data], hashlib.sha256(data).hexdigest())
        return self.domain.batch_submission.submit(request, tenant=self.tenant, upload=manifest).batch.id

    def ask(self, **request: Any) -> str:
        """Submit items or the address of a manifest."""
        batch_request = BatchRequest.model_validate(request)
        return self.domain.batch_submission.submit(batch_request, tenant=self.tenant).batch.id

    def do(self, kind: TaskKind, batch_id: str) -> str:
        """Run a background task as a worker would. Returns its result, or the reason why it did not succeed."""
        try:
            return self._tasks[kind](batch_id)
        except (Ignore, Retry, ManifestFault) as error:
            return str(error)

    def read(self, batch_id: str) -> Batch:
        """Read its manifest."""
        self.do(TaskKind.INGEST, batch_id)
        return self.batch(batch_id)

    def running(self, data: bytes | int, **options: Any) -> str:
        """A batch whose rows were read."""
        batch_id = self.upload(self.csv(data) if isinstance(data, int) else data, **options)
        self.read(batch_id)
        return batch_id

    def batch(self, batch_id: str) -> Batch:
        return self.domain.batches.get(self.tenant, batch_id)

    def job(self, batch_id: str, row: int) -> Job:
        return self.domain.job_reader.get(self.tenant, batch_job_id(batch_id, row))

    def start(self, limit: int = 100) -> list[Claim]:
        """Start what may start now."""
        # The worker has threads only during this call, so that no background task starts a job.
        self.domain.planner.renew(WORKER, slots=self.slots, worker_info="{}", held=[])
        found = [self.claim(dispatch) for dispatch in self.domain.planner.plan(limit=limit).dispatches]
        self.domain.planner.depart(WORKER, gone=True)
        return [claim for claim in found if claim is not None]

    def claim(self, dispatch: Dispatch) -> Claim | None:
        return self.domain.planner.claim(dispatch.job_id, dispatch.attempt, WORKER)

    def end(self, claim: Claim, to: State = State.SUCCEEDED, *, cost_micro_usd: int = 0) -> bool:
        settlement = {
            State.SUCCEEDED: Settlement.succeeded(self.output(claim), signal=OK, trace_id=None),
            State.FILTERED: Settlement.filtered(Filtered("not that")),
            State.FAILED: Settlement.failed(RequestRefused("wrong size"), OK),
        }[to]
        return self.domain.planner.settle(
            claim, settlement, finished_at=datetime.now(UTC), cost_micro_usd=cost_micro_usd
        )

    def output(self, claim: Claim) -> Output:
        return Output(
            bucket=self.domain.bucket.name,
            key=f"outputs/{claim.job_id}.png",
            sha256="0" * 64,
            bytes=7,
            media_type="image/png",
            width=4,
            height=4,
            seed=claim.spec.seed,
        )

    def work(self, to: State = State.SUCCEEDED, *, cost_micro_usd: int = 0) -> int:
        """Start and end jobs until nothing starts any more; returns how many."""
        count = 0
        while claims := self.start():
            for claim in claims:
                assert self.end(claim, to, cost_micro_usd=cost_micro_usd)
            count += len(claims)
        return count

    def events(self, prefix: str = "batch.") -> list[str]:
        """The types of all events so far that start with `prefix`."""
        entries: Any = self.domain.redis.xrange(self.domain.keys.outbox)
        return [fields["type"] for _, fields in entries if fields["type"].startswith(prefix)]


def adds_up(batch: Batch, states: Iterable[State] = State) -> bool:
    """Whether its counts add up to its total."""
    counts: dict[str, int] = batch.counts.model_dump()
    return counts["total"] == sum(counts[state] for state in states) + counts["rejected"]
