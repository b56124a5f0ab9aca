"""Real worker processes and the simulator for tests; ready when their own output says so."""

from pathlib import Path
from typing import Any

import httpx

from infra.local.harness import MODEL, worker_process
from jobs.foundation.ids import new_job_id
from jobs.foundation.job_states import FINAL
from jobs.plan.records import Draft
from jobs.records.job_models import Input, Job, JobSpec
from jobs.wiring import Domain
from tests.support.waiting import eventually


class Worker:
    """One worker process, known to the store by its name."""

    def __init__(
        self, domain: Domain, log: Path, *, queues: str = "edits", concurrency: int = 8, grace_s: float = 20, **env: str
    ) -> None:
        self.name = f"{log.stem}@test"
        self.log = log
        self._domain = domain
        self._started = worker_process(
            domain.settings, log, self.name, queues=queues, concurrency=concurrency, grace_s=grace_s, **env
        )
        self.process = self._started.popen

    def wait_ready(self) -> "Worker":
        """Return after its first heartbeat."""
        self._started.wait_until(lambda: any(worker.name == self.name for worker in self._domain.status.workers()))
        return self

    def kill(self) -> None:
        """Send SIGKILL."""
        self._started.kill()

    def terminate(self) -> None:
        """Send SIGTERM: the worker drains."""
        self.process.terminate()

    def close(self) -> None:
        """Stop the process and wait for it."""
        self._started.close(grace_s=3)


class Fleet:
    """A domain with a simulator and workers, and helpers for tests."""

    def __init__(self, domain: Domain, origin: str, directory: Path) -> None:
        self.domain = domain
        self.origin = origin
        self._directory = directory
        self._workers: list[Worker] = []

    def worker(self, **options: Any) -> Worker:
        """Start a worker and wait for its first heartbeat."""
        log = self._directory / f"worker{len(self._workers) + 1}.log"
        worker = Worker(self.domain, log, **options)
        self._workers.append(worker)
        return worker.wait_ready()

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    def put_picture(self, data: bytes, key: str) -> str:
        """Put a picture into the bucket. Returns its address."""
        bucket = self.domain.settings.s3_bucket
        self.domain.bucket.put(bucket, key, data, media_type="image/png")
        return f"s3://{bucket}/{key}"

    def submit(self, image: str, prompt: str = "brighter", *, tenant: str = "acme", **fields: object) -> str:
        """Submit one job, and plan and publish it at once."""
        values = {"model": MODEL, "prompt": prompt, "image": image, "seed": 1, **fields}
        draft = Draft(new_job_id(), JobSpec.model_validate(values), Input(image=image))
        self.domain.planner.submit([draft], tenant=tenant)
        self.domain.edit_loop.dispatch()
        return draft.job_id

    def job(self, job_id: str, tenant: str = "acme") -> Job:
        return self.domain.job_reader.get(tenant, job_id)

    def ended(self, job_id: str, tenant: str = "acme", within_s: float = 120) -> Job:
        """Wait until the job is final, and return it."""
        eventually(lambda: self.job(job_id, tenant).state in FINAL, within_s=within_s, what=f"{job_id} ends")
        return self.job(job_id, tenant)

    def calls(self, **query: str) -> dict[str, Any]:
        """The counts of the simulator."""
        return dict(httpx.get(f"{self.origin}/_sim/calls", params={"summary": "1", **query}, timeout=60).json())

    def knobs(self, **changes: object) -> None:
        """Change the simulator while it runs."""
        httpx.patch(f"{self.origin}/_sim/knobs", json=changes, timeout=60).raise_for_status()
