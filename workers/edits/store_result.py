"""Storing a result in the bucket. A batch that supersedes keeps the version before: it is copied aside first."""

from collections.abc import Mapping

from jobs.edits.output_versions import ObjectVersion, OutputVersions, copy_aside, first_of
from jobs.foundation.errors import NotFound, StorageFailed, Unavailable
from jobs.plan.records import Claim
from jobs.records.job_models import Output
from jobs.storage.bucket import Bucket
from jobs.storage.conditional import put_over
from jobs.storage.object_keys import output_location
from jobs.storage.objects import ATTEMPT, JOB, StoredObject, is_later

MAX_PUTS = 6
"""How often a put is tried where other writers change the object at the same time."""


class ResultStore:
    """Stores the results of attempts. Safe in any number of threads at once.

    Args:
        bucket: where the results go.
        versions: keeps the records of jobs in step with the versions of their outputs.
        buckets: further buckets that a job's `output_key` may name.
    """

    def __init__(self, bucket: Bucket, versions: OutputVersions, buckets: tuple[str, ...]) -> None:
        self._bucket = bucket
        self._versions = versions
        self._buckets = buckets

    def location(self, claim: Claim, media_type: str) -> tuple[str, str]:
        """Bucket and key of a job's result.

        Raises:
            InvalidInput: the job's `output_key` names another bucket, or makes an invalid key.
        """
        return output_location(claim.spec, claim.job_id, media_type, self._bucket.name, self._buckets)

    def store_result(self, claim: Claim, output: Output, data: bytes, metadata: Mapping[str, str]) -> Output | None:
        """Put a job's result under its key; where its batch supersedes, as the next version.

        Conditional puts make sure that neither a later attempt's result nor a version is lost.

        Args:
            claim: the attempt, whose number is the fence.
            output: bucket, key and description of the result.
            data: its bytes.
            metadata: stored with it.

        Returns:
            The output with its version; None where a later attempt has stored its own.

        Raises:
            StorageFailed: the bucket does not answer or refuses the object.
        """
        if claim.supersede:
            return self._store_version(claim, output, data, metadata)
        stored = self._bucket.put_fenced(
            output.bucket,
            output.key,
            data,
            media_type=output.media_type,
            metadata=metadata,
            job_id=claim.job_id,
            attempt=claim.attempt,
            sha256=output.sha256,
        )
        return output if stored else None

    def _store_version(self, claim: Claim, output: Output, data: bytes, metadata: Mapping[str, str]) -> Output | None:
        for _ in range(MAX_PUTS):
            try:
                there = self._bucket.head(output.bucket, output.key)
                if there is not None and is_later(there, claim.job_id, claim.attempt):
                    return None
                standing = self.next_standing(claim.job_id, output, there)
            except NotFound:
                continue
            except Unavailable as error:
                raise StorageFailed(str(error)) from error
            fields = {**metadata, **standing.metadata, JOB: claim.job_id, ATTEMPT: str(claim.attempt)}
            where = (output.bucket, output.key)
            if put_over(self._bucket, *where, data, media_type=output.media_type, metadata=fields, there=there):
                return self.with_version(output, standing)
        raise StorageFailed("other writers change the object faster than it can be stored")

    def next_standing(self, job_id: str, output: Output, there: StoredObject | None) -> ObjectVersion:
        """The standing of a job's output that replaces `there`; another job's object is copied aside first.

        Raises:
            NotFound: the object has changed meanwhile.
            Unavailable: the bucket does not answer, or refuses.
        """
        if there is None:
            return first_of(job_id)
        standing = ObjectVersion.of(there)
        if standing.job_id == job_id:
            # An earlier attempt of the same job stored it: its result is not a version of its own.
            return standing
        copy_aside(self._bucket, output.bucket, output.key, there)
        return standing.over(job_id)

    def with_version(self, output: Output, standing: ObjectVersion) -> Output:
        """The output with its version; the record of the version before then names where that one is now."""
        self._versions.follow(output, standing)
        return versioned(output, standing)

    def adopt_stored_result(self, claim: Claim, output: Output, there: StoredObject) -> Output:
        """The output that an earlier attempt of this job has stored, with its version."""
        return self.with_version(output, ObjectVersion.of(there)) if claim.supersede else output


def versioned(output: Output, standing: ObjectVersion) -> Output:
    """An output with the version that its object's metadata names."""
    return output.model_copy(update={"version": standing.version, "previous": standing.previous(output.key)})
