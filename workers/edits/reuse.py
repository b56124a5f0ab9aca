"""Reuse: an equal edit's output is copied instead of bought, and a picture that has not changed is not read."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from jobs.catalogue.catalogue import ModelSpec
from jobs.edits.output_versions import ObjectVersion
from jobs.edits.reuse import FinishedEdit, LastRead, Reuse, edit_fingerprint
from jobs.foundation.errors import Interrupted, NotFound
from jobs.images.picture import Picture
from jobs.plan.records import Claim, ReuseEntry
from jobs.records.job_models import Input, Output
from jobs.storage.bucket import Bucket
from jobs.storage.conditional import copy_exact
from jobs.storage.objects import ATTEMPT, JOB, StoredObject, is_later
from workers.edits.fetch_input import Fetched, InputFetcher
from workers.edits.store_result import ResultStore, versioned

FROM = "reused-from"
"""Metadata: the job whose output was copied."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class EqualEdit:
    """A finished edit of the same picture with the same parameters, whose output is still in the bucket.

    Attributes:
        made: its job and output.
        there: the output's object.
    """

    made: FinishedEdit
    there: StoredObject


@dataclass(frozen=True)
class ObtainedInput:
    """A job's picture.

    Attributes:
        input: its description.
        fetched: its bytes; None where they were not needed.
        equal: a finished edit whose output may be copied.
    """

    input: Input
    fetched: Fetched | None
    equal: EqualEdit | None = None


class EqualEdits:
    """Finds equal edits and copies their outputs. Safe in any number of threads at once.

    Args:
        fetcher: fetches pictures.
        index: finds finished edits by their fingerprint.
        bucket: where the outputs are.
        results: says where outputs go, and which version each one is.
    """

    def __init__(self, fetcher: InputFetcher, index: Reuse, bucket: Bucket, results: ResultStore) -> None:
        self._fetcher = fetcher
        self._index = index
        self._bucket = bucket
        self._results = results

    def obtain(self, claim: Claim, model: ModelSpec, stop: Callable[[], bool], *, reuse: bool = True) -> ObtainedInput:
        """Fetch a job's picture. Where an equal edit is known and the picture has not changed, it is not read.

        Args:
            claim: the attempt.
            model: edits the picture.
            stop: whether to stop early.
            reuse: whether to look for equal edits; the job must ask for it, too.

        Raises:
            InputRejected, InputUnavailable, Interrupted: as `InputFetcher.fetch` raises them.
            Unavailable, redis.exceptions.RedisError: a store does not answer.
        """
        image = claim.input.image
        if not (reuse and claim.spec.reuse):
            fetched = self._fetcher.fetch(image, model, claim.tenant, stop=stop)
            return ObtainedInput(_described(image, fetched), fetched)
        before = self._index.last_read(claim.tenant, image)
        new = self._fetcher.fetch_changed(image, model, claim.tenant, before, stop=stop)
        if new is None and before is not None:
            known = _input(image, before.sha256, before.size, before.picture)
            equal = self._find(claim, model, known)
            if equal is not None:
                return ObtainedInput(known, None, equal)
        fetched = new or self._fetcher.fetch(image, model, claim.tenant, stop=stop)
        known = _described(image, fetched)
        if fetched.etag:
            read = LastRead(fetched.etag, fetched.sha256, len(fetched.data), fetched.picture)
            self._index.remember(claim.tenant, image, read)
        return ObtainedInput(known, fetched, self._find(claim, model, known))

    def entry(self, claim: Claim, model: ModelSpec, at: datetime) -> ReuseEntry | None:
        """Where later equal edits find this one, which ends at `at`; None where its picture's bytes are not known."""
        if claim.input.sha256 is None:
            return None
        key = edit_fingerprint(claim.tenant, claim.input.sha256, claim.spec, model)
        return self._index.entry(claim.tenant, key, claim.job_id, at)

    def _find(self, claim: Claim, model: ModelSpec, known: Input) -> EqualEdit | None:
        """A finished equal edit, if its output still has the size and the SHA-256 of its record."""
        key = edit_fingerprint(claim.tenant, known.sha256 or "", claim.spec, model)
        made = self._index.find(claim.tenant, key, claim.claimed_at)
        if made is None:
            return None
        there = self._bucket.head(made.output.bucket, made.output.key)
        if there is None or not _holds(there, made.output):
            log.info("reuse.gone", made_by=made.job_id, key=made.output.key)
            return None
        return EqualEdit(made, there)

    def take(self, claim: Claim, model: ModelSpec, equal: EqualEdit) -> Output | None:
        """Copy the output of an equal edit to the job's own key; None where that output is gone meanwhile.

        A copy in S3 cannot be made conditional on its target. So the target is checked before the copy; within that
        one round trip a late attempt may overwrite a result of the same picture, prompt and parameters.

        Raises:
            Interrupted: a later attempt has stored its result.
            Unavailable, redis.exceptions.RedisError: a store does not answer.
        """
        made = equal.made.output
        bucket, key = self._results.location(claim, made.media_type)
        output = made.model_copy(update={"bucket": bucket, "key": key, "reused": True, "version": 1, "previous": None})
        same_key = (bucket, key) == (made.bucket, made.key)
        there = equal.there if same_key else self._bucket.head(bucket, key)
        if there is not None and is_later(there, claim.job_id, claim.attempt):
            raise Interrupted("a later attempt has stored its result", code="lease_lost")
        if there is not None and _holds(there, made):
            # The bytes are under the key already: nothing is written, and there is no new version.
            return versioned(output, ObjectVersion.of(there)) if claim.supersede else output
        return self._copy(claim, model, equal, output, there)

    def _copy(
        self, claim: Claim, model: ModelSpec, equal: EqualEdit, output: Output, there: StoredObject | None
    ) -> Output | None:
        made = equal.made.output
        metadata = {"model": model.name, "sha256": made.sha256, FROM: equal.made.job_id}
        if made.seed is not None:
            metadata["seed"] = str(made.seed)
        metadata |= {JOB: claim.job_id, ATTEMPT: str(claim.attempt)}
        try:
            standing = self._results.next_standing(claim.job_id, output, there) if claim.supersede else None
            if standing is not None:
                metadata |= standing.metadata
            source, target = (made.bucket, made.key), (output.bucket, output.key)
            copy_exact(self._bucket, source, equal.there, target, metadata=metadata)
        except NotFound:
            return None
        return output if standing is None else self._results.with_version(output, standing)


def _holds(there: StoredObject, output: Output) -> bool:
    """Whether an object holds the bytes of an output."""
    return there.metadata.get("sha256") == output.sha256 and there.size == output.bytes


def _described(image: str, fetched: Fetched) -> Input:
    return _input(image, fetched.sha256, len(fetched.data), fetched.picture)


def _input(image: str, sha256: str, size: int, picture: Picture) -> Input:
    return Input(
        image=image,
        sha256=sha256,
        bytes=size,
        media_type=picture.media_type,
        width=picture.width,
        height=picture.height,
    )
