"""Worker processes and the simulator for tests: started for real, awaited by what they say of themselves."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from jobs.domain import Domain
from jobs.ids import new_job_id
from jobs.models import Input, Job, JobSpec
from jobs.planner import Draft
from jobs.settings import Settings
from jobs.states import FINAL

MODEL = "step-image-edit-2"
ROOT = Path(__file__).parents[1]


def eventually(true: Callable[[], Any], *, within_s: float = 60, what: str = "") -> Any:
    """The first true value of a condition, asked again and again; the test fails where it never comes."""
    deadline = time.monotonic() + within_s
    while True:
        value = true()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what or true}"
        time.sleep(0.02)


@contextmanager
def simulator_process(**knobs: object) -> Iterator[str]:
    """A simulator of the test's own; its origin."""
    flags = [part for name, value in knobs.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    process = subprocess.Popen(
        [sys.executable, "-m", "infra.simulator", "--port", "0", *flags], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " on http" in line, f"the simulator did not start: {line!r}"
        yield line.split(" on ")[1].strip()
    finally:
        process.terminate()
        process.wait(10)


def catalogue_toml(origin: str, **changes: object) -> str:
    """A retouch.toml whose default model is the simulator's."""
    values: dict[str, object] = {
        "dialect": "stepfun",
        "base_url": f"{origin}/v1",
        "api_key_env": "STEP_API_KEY",
        "concurrency": 64,
        "rpm": 0,
        "timeout_s": 20,
        **changes,
    }
    lines = [f"{name} = {value!r}" if isinstance(value, str) else f"{name} = {value}" for name, value in values.items()]
    return f'default_model = "{MODEL}"\n[models.{MODEL}]\n' + "\n".join(lines) + "\n"


def environment_of(settings: Settings, **more: str) -> dict[str, str]:
    """The environment that gives a process these settings."""
    variables = {
        "RETOUCH_REDIS_URL": settings.redis_url.get_secret_value(),
        "RETOUCH_BROKER_URL": settings.broker,
        "RETOUCH_KEY_PREFIX": settings.key_prefix,
        "RETOUCH_S3_ENDPOINT_URL": settings.s3_endpoint_url or "",
        "RETOUCH_S3_BUCKET": settings.s3_bucket,
        "RETOUCH_ALLOW_PRIVATE_ADDRESSES": settings.allow_private_addresses,
        "RETOUCH_LEASE_S": str(settings.lease_s),
        "RETOUCH_CONFIG": str(settings.config or ""),
        "RETOUCH_PUBLIC_URL": settings.public_url,
        "RETOUCH_LOG_FORMAT": "json",
        "STEP_API_KEY": "sim-key",
    }
    if not variables["RETOUCH_CONFIG"]:
        del variables["RETOUCH_CONFIG"]
    return {**os.environ, **variables, **more}


class Worker:
    """One worker process."""

    def __init__(
        self, domain: Domain, log: Path, *, queues: str = "edits", concurrency: int = 8, grace_s: float = 20, **env: str
    ) -> None:
        self.name = f"{log.stem}@test"
        self.log = log
        self._domain = domain
        self._file = log.open("ab")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "retouch", "worker", "--queues", queues, "--name", self.name),
                *("--concurrency", str(concurrency), "--grace", str(grace_s)),
            ],
            env=environment_of(domain.settings, **env),
            stdout=self._file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )

    def wait_ready(self) -> "Worker":
        """Return once its pulse is felt."""

        def alive() -> bool:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            return any(worker.name == self.name for worker in self._domain.status.workers())

        eventually(alive, within_s=30, what=f"{self.name} is alive")
        return self

    def kill(self) -> None:
        """SIGKILL: it has no time for anything."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        """SIGTERM: it drains."""
        self.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.kill()
        self._file.close()


class Fleet:
    """A domain with a simulator and workers, and short words for what tests do with them."""

    def __init__(self, domain: Domain, origin: str, directory: Path) -> None:
        self.domain = domain
        self.origin = origin
        self._directory = directory
        self._workers: list[Worker] = []

    def worker(self, **options: Any) -> Worker:
        """Start a worker and wait for its pulse."""
        log = self._directory / f"worker{len(self._workers) + 1}.log"
        worker = Worker(self.domain, log, **options)
        self._workers.append(worker)
        return worker.wait_ready()

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    def put_picture(self, data: bytes, key: str) -> str:
        """A picture in the bucket; its address."""
        bucket = self.domain.settings.s3_bucket
        self.domain.bucket.put(bucket, key, data, media_type="image/png")
        return f"s3://{bucket}/{key}"

    def submit(self, image: str, prompt: str = "brighter", *, tenant: str = "acme", **fields: object) -> str:
        """One job, planned and published at once."""
        values = {"model": MODEL, "prompt": prompt, "image": image, "seed": 1, **fields}
        draft = Draft(new_job_id(), JobSpec.model_validate(values), Input(image=image))
        self.domain.planner.submit([draft], tenant=tenant)
        self.domain.broker.dispatch()
        return draft.job_id

    def job(self, job_id: str, tenant: str = "acme") -> Job:
        return self.domain.store.get(tenant, job_id)

    def ended(self, job_id: str, tenant: str = "acme", within_s: float = 60) -> Job:
        """The job once it is final."""
        eventually(lambda: self.job(job_id, tenant).state in FINAL, within_s=within_s, what=f"{job_id} ends")
        return self.job(job_id, tenant)

    def calls(self, **query: str) -> dict[str, Any]:
        """What the simulator counted."""
        return dict(httpx.get(f"{self.origin}/_sim/calls", params={"summary": "1", **query}).json())

    def knobs(self, **changes: object) -> None:
        """Change the simulator while it runs."""
        httpx.patch(f"{self.origin}/_sim/knobs", json=changes).raise_for_status()
