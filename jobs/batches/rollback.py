"""Rolls a batch back: restores the previous versions of its output keys. A repeated rollback has the same result."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import structlog

from jobs.batches.commands import Batches
from jobs.batches.models import Batch, Rollback
from jobs.edits.output_versions import ROLLED_BACK, TOP, ObjectVersion, OutputVersions, copy_aside, metadata_of
from jobs.edits.reader import JobReader
from jobs.foundation.errors import Conflict, NotFound
from jobs.foundation.ids import batch_job_id
from jobs.foundation.redis_keys import Keys
from jobs.foundation.settings import Settings
from jobs.plan.script_runner import ScriptRunner
from jobs.queueing.background_tasks import LeaseLost, TaskLease
from jobs.records.job_models import Job, JobSpec, Output
from jobs.storage.bucket import Bucket
from jobs.storage.conditional import copy_exact
from jobs.storage.object_keys import output_location
from jobs.storage.objects import StoredObject

CHUNK = 200
THREADS = 8
"""Each thread waits for round trips to the bucket."""

log = structlog.get_logger(__name__)


class Rollbacks:
    """Rolls batches back.

    Args:
        batches: their records.
        reader: reads their jobs.
        bucket: where the outputs are.
        keys: names of the keys.
        scripts: runs the scripts.
        versions: updates the records of jobs when outputs move.
        settings: which buckets outputs may be in.
    """

    def __init__(
        self,
        *,
        batches: Batches,
        reader: JobReader,
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
        """Start the rollback of a batch; the batch's `rollback` shows its progress.

        Raises:
            NotFound: the tenant has no batch with this id.
            Conflict: it has not ended.
        """
        batch = self._batches.get(tenant, batch_id)
        state, done = self._scripts.run("batches/begin_rollback", [self._keys.batch(batch_id)], [])
        if done == "0":
            raise Conflict(
                f"batch {batch_id} is {state}: only a batch that has ended can be rolled back; cancel it first"
            )
        if done == "busy":
            raise Conflict(f"batch {batch_id} is still busy with an earlier cancel or retry; try again in a moment")
        return self._batches.get(tenant, batch.id)

    def run(self, batch_id: str, lease: TaskLease) -> None:
        """Restore the previous versions, a chunk of rows at a time.

        Raises:
            jobs.queueing.background_tasks.LeaseLost: another worker has claimed the task.
            Unavailable, redis.exceptions.RedisError: a store does not answer.
        """
        record = self._batches.record(batch_id)
        if "rollback" not in record:
            return
        counts = Counter(Rollback.model_validate_json(record["rollback"]).model_dump(exclude={"state"}))
        done, last = int(record.get("rollback_row", 0)), int(record.get("row", 0))
        with ThreadPoolExecutor(THREADS) as threads:
            while True:
                lease.check()
                rows = range(done + 1, min(done + CHUNK, last) + 1)
                jobs = self._reader.get_many(record["tenant"], [batch_job_id(batch_id, row) for row in rows])
                counts.update(threads.map(self._restore, [job for job in jobs if job.output]))
                done = min(done + CHUNK, last)
                finished = done >= last
                progress = Rollback(
                    state="completed" if finished else "running", **{k: v for k, v in counts.items() if k}
                )
                args = [lease.number, done, progress.model_dump_json(), "1" if finished else "0"]
                if not self._scripts.run("batches/record_rollback", [self._keys.batch(batch_id)], args):
                    raise LeaseLost(f"another worker has taken over the rollback of {batch_id}")
                if finished:
                    log.info("rollback.ended", batch_id=batch_id, **counts)
                    return

    def _restore(self, job: Job) -> str:
        """Restore the previous version of one job's key; returns the name of the count in `Rollback` to increase."""
        if job.output is None:
            return "unversioned"
        bucket, key = job.output.bucket, self._named_key(job, job.output)
        current = self._bucket.head(bucket, key)
        if current is None:
            return "lost"
        standing = ObjectVersion.of(current)
        if standing.job_id != job.id:
            return _not_ours(current, job, job.output)
        previous = standing.previous(key)
        if previous is None:
            return "unversioned"
        return self._swap(job, (bucket, key), current, previous)

    def _swap(self, job: Job, location: tuple[str, str], current: StoredObject, previous: str) -> str:
        """Copy the current object aside and the previous version over it, and update the records of both jobs."""
        bucket, key = location
        previous_object = self._bucket.head(bucket, previous)
        if previous_object is None:
            return "lost"
        earlier = ObjectVersion.of(previous_object)
        metadata = {
            **metadata_of(previous_object),
            **earlier.metadata,
            TOP: str(ObjectVersion.of(current).top),
            ROLLED_BACK: job.id,
        }
        try:
            aside = copy_aside(self._bucket, bucket, key, current)
            self._versions.move_output(job.id, bucket, key, aside)
            copy_exact(self._bucket, (bucket, previous), previous_object, location, metadata=metadata)
        except NotFound:
            # The object changed after it was read: a later edit has replaced it.
            return "overtaken"
        self._versions.move_output(earlier.job_id, bucket, previous, key)
        return "restored"

    def _named_key(self, job: Job, output: Output) -> str:
        settings = self._settings
        spec = JobSpec(output_key=job.output_key, custom_id=job.custom_id)
        return output_location(spec, job.id, output.media_type, settings.s3_bucket, settings.allowed_buckets)[1]


def _not_ours(current: StoredObject, job: Job, output: Output) -> str:
    if metadata_of(current).get(ROLLED_BACK) == job.id:
        return "restored"
    # A job that found an equal result at its key has written nothing.
    unchanged = output.reused and current.metadata.get("sha256") == output.sha256
    return "unversioned" if unchanged else "overtaken"
