"""Where a result goes; in a batch that supersedes, over the version before, which is kept aside first."""

from collections.abc import Mapping

from jobs.edits.output_versions import Standing, first_of, keep_aside
from jobs.foundation.errors import NotFound, StorageFailed, Unavailable
from jobs.plan.records import Claim
from jobs.records.job_models import Output
from jobs.storage.conditional import put_over
from jobs.storage.objects import ATTEMPT, JOB, StoredObject, is_later
from jobs.wiring import Domain

TRIES = 6


def place(domain: Domain, claim: Claim, output: Output, data: bytes, metadata: Mapping[str, str]) -> Output | None:
    """Put a job's result under its key; where its batch supersedes, as the next version of what lies there.

    The store itself sees to it that neither a later attempt's result nor a version is lost.

    Args:
        domain: what the process works with.
        claim: the attempt, whose number is the fence.
        output: where, and what is said of it.
        data: its bytes.
        metadata: kept beside it.

    Returns:
        The output with its version; None where a later attempt has put its own.

    Raises:
        StorageFailed: the store does not answer or does not take it.
    """
    if not claim.supersede:
        kept = domain.bucket.put_fenced(
            output.bucket,
            output.key,
            data,
            media_type=output.media_type,
            metadata=metadata,
            job_id=claim.job_id,
            attempt=claim.attempt,
            sha256=output.sha256,
        )
        return output if kept else None
    for _ in range(TRIES):
        try:
            there = domain.bucket.head(output.bucket, output.key)
            if there is not None and is_later(there, claim.job_id, claim.attempt):
                return None
            standing = next_standing(domain, claim.job_id, output, there)
        except NotFound:
            continue
        except Unavailable as error:
            raise StorageFailed(str(error)) from error
        said = {**metadata, **standing.metadata, JOB: claim.job_id, ATTEMPT: str(claim.attempt)}
        where = (output.bucket, output.key)
        if put_over(domain.bucket, *where, data, media_type=output.media_type, metadata=said, there=there):
            domain.versions.follow(output, standing)
            return versioned(output, standing)
    raise StorageFailed("the object changes faster than it can be put")


def next_standing(domain: Domain, job_id: str, output: Output, there: StoredObject | None) -> Standing:
    """The standing of a job's output where `there` lies now; another job's object has been copied aside then.

    Raises:
        NotFound: something else lies there by now.
        Unavailable: the store does not answer, or refuses.
    """
    if there is None:
        return first_of(job_id)
    standing = Standing.of(there)
    if standing.job_id == job_id:
        # An earlier attempt of the same job was here: its result is no version of its own.
        return standing
    keep_aside(domain.bucket, output.bucket, output.key, there)
    return standing.over(job_id)


def versioned(output: Output, standing: Standing) -> Output:
    """An output with what its standing says."""
    return output.model_copy(update={"version": standing.version, "previous": standing.previous(output.key)})


def found_again(domain: Domain, claim: Claim, output: Output, there: StoredObject) -> Output:
    """An output that an earlier attempt of this job has put, with its version; the record before follows it."""
    if not claim.supersede:
        return output
    standing = Standing.of(there)
    domain.versions.follow(output, standing)
    return versioned(output, standing)
