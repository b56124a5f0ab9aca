"""Pointing a batch's output keys back to the versions before. Done again, or by another, it ends the same."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import structlog

from jobs.batch_models import Batch, Rollback
from jobs.bucket import StoredObject
from jobs.bucket_exact import copy_exact
from jobs.chores import Held, Lost
from jobs.domain import Domain
from jobs.errors import Conflict, NotFound
from jobs.ids import batch_job_id
from jobs.models import Job, JobSpec, Output
from jobs.object_names import output_location
from jobs.versions import ROLLED_BACK, TOP, Standing, keep_aside, metadata_of, move_output

STRETCH = 200
THREADS = 8
"""The store's round trips are what it waits for."""

log = structlog.get_logger(__name__)


def begin_rollback(domain: Domain, tenant: str, batch_id: str) -> Batch:
    """Let a batch's output keys be pointed back; `rollback` of the batch then says how far that is.

    Raises:
        NotFound: no batch of that id is this tenant's.
        Conflict: it has not ended.
    """
    batch = domain.batches.get(tenant, batch_id)
    state, done = domain.planner.run("batch_rollback", [domain.keys.batch(batch_id)], [])
    if done == "0":
        raise Conflict(f"batch {batch_id} is {state}: only one that has ended can be rolled back; cancel it first")
    if done == "busy":
        raise Conflict(f"batch {batch_id} is still busy with the cancel or retry before; try again in a moment")
    return domain.batches.get(tenant, batch.id)


def roll_back(domain: Domain, batch_id: str, held: Held) -> None:
    """Do it, a stretch of rows at a time.

    Raises:
        jobs.chores.Lost: another worker is at it by now.
        Unavailable, redis.exceptions.RedisError: a store does not answer.
    """
    record = domain.batches.record(batch_id)
    if "rollback" not in record:
        return
    counted = Counter(Rollback.model_validate_json(record["rollback"]).model_dump(exclude={"state"}))
    done, last = int(record.get("rollback_row", 0)), int(record.get("row", 0))
    with ThreadPoolExecutor(THREADS) as threads:
        while True:
            held.check()
            rows = range(done + 1, min(done + STRETCH, last) + 1)
            jobs = domain.store.get_many(record["tenant"], [batch_job_id(batch_id, row) for row in rows])
            counted.update(threads.map(lambda job: _restore(domain, job), [job for job in jobs if job.output]))
            done = min(done + STRETCH, last)
            over = done >= last
            said = Rollback(state="completed" if over else "running", **{k: v for k, v in counted.items() if k})
            args = [held.number, done, said.model_dump_json(), "1" if over else "0"]
            if not domain.planner.run("batch_rolled", [domain.keys.batch(batch_id)], args):
                raise Lost(f"the rollback of {batch_id} is another worker's by now")
            if over:
                log.info("rollback.ended", batch_id=batch_id, **counted)
                return


def _restore(domain: Domain, job: Job) -> str:
    """Point one job's key back; returns what came of it, a name of `Rollback`'s counts."""
    if job.output is None:
        return "unversioned"
    bucket, key = job.output.bucket, _named_key(domain, job, job.output)
    there = domain.bucket.head(bucket, key)
    if there is None:
        return "lost"
    standing = Standing.of(there)
    if standing.job_id != job.id:
        return _not_ours(there, job, job.output)
    previous = standing.previous(key)
    if previous is None:
        return "unversioned"
    return _swapped(domain, job, (bucket, key), there, previous)


def _not_ours(there: StoredObject, job: Job, output: Output) -> str:
    if metadata_of(there).get(ROLLED_BACK) == job.id:
        return "restored"
    # One that found its own result there already has written nothing.
    unchanged = output.reused and there.metadata.get("sha256") == output.sha256
    return "unversioned" if unchanged else "overtaken"


def _swapped(domain: Domain, job: Job, place: tuple[str, str], there: StoredObject, previous: str) -> str:
    """Copy what lies at `place` aside and the version before over it; the records of both jobs follow."""
    bucket, key = place
    before = domain.bucket.head(bucket, previous)
    if before is None:
        return "lost"
    earlier = Standing.of(before)
    said = {**metadata_of(before), **earlier.metadata, TOP: str(Standing.of(there).top), ROLLED_BACK: job.id}
    try:
        aside = keep_aside(domain.bucket, bucket, key, there)
        move_output(domain, job.id, bucket, key, aside)
        copy_exact(domain.bucket, (bucket, previous), before, place, metadata=said)
    except NotFound:
        # It changed between two looks: a later edit has it.
        return "overtaken"
    move_output(domain, earlier.job_id, bucket, previous, key)
    return "restored"


def _named_key(domain: Domain, job: Job, output: Output) -> str:
    settings = domain.settings
    spec = JobSpec(output_key=job.output_key, custom_id=job.custom_id)
    return output_location(spec, job.id, output.media_type, settings.s3_bucket, settings.allowed_buckets)[1]
