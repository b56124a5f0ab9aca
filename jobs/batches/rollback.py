"""Pointing a batch's output keys back to the versions before. Done again, or by another, it ends the same."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import structlog

from jobs.batches.commands import Batches
from jobs.batches.models import Batch, Rollback
from jobs.edits.output_versions import ROLLED_BACK, TOP, OutputVersions, Standing, keep_aside, metadata_of
from jobs.edits.reader import Store
from jobs.foundation.errors import Conflict, NotFound
from jobs.foundation.ids import batch_job_id
from jobs.foundation.redis_keys import Keys
from jobs.foundation.settings import Settings
from jobs.plan.script_runner import ScriptRunner
from jobs.queueing.background_tasks import Held, Lost
from jobs.records.job_models import Job, JobSpec, Output
from jobs.storage.bucket import Bucket, StoredObject
from jobs.storage.conditional import copy_exact
from jobs.storage.object_keys import output_location

CHUNK = 200
THREADS = 8
"""The store's round trips are what it waits for."""

log = structlog.get_logger(__name__)


class Rollbacks:
    """Rolls batches back.

    Args:
        batches: their records.
        reader: reads their jobs.
        bucket: where the outputs are.
        keys: names of the keys.
        scripts: runs the scripts.
        versions: keeps the records of jobs in step.
        settings: which buckets outputs may be in.
    """

    def __init__(
        self,
        *,
        batches: Batches,
        reader: Store,
        bucket: Bucket,
        keys: Keys,
        scripts: ScriptRunner,
        versions: OutputVersions,
        settings: Settings,
    ) -> None:
        self._batches = batches
        self._reader = reader
        self._bucket = bucket
        self._keys = keys
        self._scripts = scripts
        self._versions = versions
        self._settings = settings

    def begin(self, tenant: str, batch_id: str) -> Batch:
        """Let a batch's output keys be pointed back; `rollback` of the batch then says how far that is.

        Raises:
            NotFound: no batch of that id is this tenant's.
            Conflict: it has not ended.
        """
        batch = self._batches.get(tenant, batch_id)
        state, done = self._scripts.run("batches/begin_rollback", [self._keys.batch(batch_id)], [])
        if done == "0":
            raise Conflict(f"batch {batch_id} is {state}: only one that has ended can be rolled back; cancel it first")
        if done == "busy":
            raise Conflict(f"batch {batch_id} is still busy with the cancel or retry before; try again in a moment")
        return self._batches.get(tenant, batch.id)

    def run(self, batch_id: str, held: Held) -> None:
        """Do it, a stretch of rows at a time.

        Raises:
            jobs.queueing.background_tasks.Lost: another worker is at it by now.
            Unavailable, redis.exceptions.RedisError: a store does not answer.
        """
        record = self._batches.record(batch_id)
        if "rollback" not in record:
            return
        counted = Counter(Rollback.model_validate_json(record["rollback"]).model_dump(exclude={"state"}))
        done, last = int(record.get("rollback_row", 0)), int(record.get("row", 0))
        with ThreadPoolExecutor(THREADS) as threads:
            while True:
                held.check()
                rows = range(done + 1, min(done + CHUNK, last) + 1)
                jobs = self._reader.get_many(record["tenant"], [batch_job_id(batch_id, row) for row in rows])
                counted.update(threads.map(self._restore, [job for job in jobs if job.output]))
                done = min(done + CHUNK, last)
                over = done >= last
                said = Rollback(state="completed" if over else "running", **{k: v for k, v in counted.items() if k})
                args = [held.number, done, said.model_dump_json(), "1" if over else "0"]
                if not self._scripts.run("batches/record_rollback", [self._keys.batch(batch_id)], args):
                    raise Lost(f"the rollback of {batch_id} is another worker's by now")
                if over:
                    log.info("rollback.ended", batch_id=batch_id, **counted)
                    return

    def _restore(self, job: Job) -> str:
        """Point one job's key back; returns what came of it, a name of `Rollback`'s counts."""
        if job.output is None:
            return "unversioned"
        bucket, key = job.output.bucket, self._named_key(job, job.output)
        there = self._bucket.head(bucket, key)
        if there is None:
            return "lost"
        standing = Standing.of(there)
        if standing.job_id != job.id:
            return _not_ours(there, job, job.output)
        previous = standing.previous(key)
        if previous is None:
            return "unversioned"
        return self._swapped(job, (bucket, key), there, previous)

    def _swapped(self, job: Job, place: tuple[str, str], there: StoredObject, previous: str) -> str:
        """Copy what lies at `place` aside and the version before over it; the records of both jobs follow."""
        bucket, key = place
        before = self._bucket.head(bucket, previous)
        if before is None:
            return "lost"
        earlier = Standing.of(before)
        said = {**metadata_of(before), **earlier.metadata, TOP: str(Standing.of(there).top), ROLLED_BACK: job.id}
        try:
            aside = keep_aside(self._bucket, bucket, key, there)
            self._versions.move_output(job.id, bucket, key, aside)
            copy_exact(self._bucket, (bucket, previous), before, place, metadata=said)
        except NotFound:
            # It changed between two looks: a later edit has it.
            return "overtaken"
        self._versions.move_output(earlier.job_id, bucket, previous, key)
        return "restored"

    def _named_key(self, job: Job, output: Output) -> str:
        settings = self._settings
        spec = JobSpec(output_key=job.output_key, custom_id=job.custom_id)
        return output_location(spec, job.id, output.media_type, settings.s3_bucket, settings.allowed_buckets)[1]


def _not_ours(there: StoredObject, job: Job, output: Output) -> str:
    if metadata_of(there).get(ROLLED_BACK) == job.id:
        return "restored"
    # One that found its own result there already has written nothing.
    unchanged = output.reused and there.metadata.get("sha256") == output.sha256
    return "unversioned" if unchanged else "overtaken"
