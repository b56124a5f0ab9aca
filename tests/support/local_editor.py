"""Batches edited in this process: background tasks run at once, and a real editor calls the simulator."""

import io
import random
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

from jobs.batches.models import Batch
from jobs.foundation.ids import batch_job_id, new_job_id
from jobs.queueing.background_tasks import TaskKind
from jobs.records.job_models import Job
from tests.support.batches import BatchHarness
from tests.support.fleet import Fleet
from workers.edits.active_attempts import ActiveAttempts
from workers.process.wiring import build_editor

WORKER = "editing"


def unique(words: str) -> str:
    """A prompt that no other test uses."""
    return f"{words} {new_job_id()}"


def picture(seed: int, side: int = 32) -> bytes:
    """A small picture; each seed gives another one."""
    dice = random.Random(seed)
    image = Image.frombytes("RGB", (side, side), dice.randbytes(side * side * 3))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


class Studio:
    """Does a worker's whole work, one step at a time."""

    def __init__(self, fleet: Fleet, tenant: str = "acme", threads: int = 8) -> None:
        domain = fleet.domain
        self.fleet = fleet
        self.domain = domain
        self.tenant = tenant
        self.batch_harness = BatchHarness(domain, tenant)
        self.editor = build_editor(domain, ActiveAttempts(), WORKER)
        self._threads = threads

    def put(self, name: str, seed: int) -> str:
        """Put a picture into the bucket. Returns its address."""
        bucket = self.domain.bucket
        bucket.put(bucket.name, name, picture(seed), media_type="image/png")
        return f"s3://{bucket.name}/{name}"

    def edit(self) -> int:
        """Edit all that can be started, until nothing can; returns how many attempts there were."""
        attempts = 0
        with ThreadPoolExecutor(self._threads) as threads:
            while True:
                self.domain.planner.renew(WORKER, slots=1000, worker_info="{}", held=[])
                found = self.domain.planner.plan(limit=500).dispatches
                self.domain.planner.depart(WORKER, gone=True)
                if not found:
                    return attempts
                list(threads.map(lambda dispatch: self.editor.edit(dispatch.job_id, dispatch.attempt), found))
                attempts += len(found)

    def run_background_tasks(self, *kinds: TaskKind) -> int:
        """Run the background tasks of these kinds, or of all kinds. Returns how many there were."""
        done = 0
        for kind in kinds or TaskKind:
            members: Any = self.domain.redis.zrange(self.domain.keys.background_tasks, 0, -1)
            for member in members:
                name, key = member.split(" ", 1)
                if name == kind:
                    self.batch_harness.do(kind, self.domain.keys.id_of(key))
                    done += 1
        return done

    def finish(self) -> None:
        """Run background tasks and edits until none is left."""
        while self.run_background_tasks() or self.edit():
            pass

    def batch(self, items: Iterable[dict[str, Any]], prompt: str, **options: Any) -> str:
        """A batch of items, edited to its end."""
        defaults = {"prompt": prompt, **options.pop("defaults", {})}
        batch_id = self.batch_harness.ask(items=list(items), defaults=defaults, **options)
        self.finish()
        return batch_id

    def shown(self, batch_id: str) -> Batch:
        return self.domain.batches.get(self.tenant, batch_id)

    def job(self, batch_id: str, row: int = 1) -> Job:
        return self.domain.job_reader.get(self.tenant, batch_job_id(batch_id, row))

    def calls(self, prompt: str) -> int:
        """Calls with a prompt that the simulator has counted."""
        return int(self.fleet.calls(prompt=prompt)["calls"])

    def bytes_of(self, job: Job) -> bytes:
        """The bytes of the object that is the job's output."""
        assert job.output is not None
        return self.domain.bucket.get(job.output.bucket, job.output.key, max_bytes=1 << 24)
