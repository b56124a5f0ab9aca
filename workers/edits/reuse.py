"""Taking the output of an equal edit instead of buying one, and reading no picture that has not changed."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from jobs.catalogue.catalogue import ModelSpec
from jobs.edits.output_versions import Standing
from jobs.edits.reuse import LastRead, Made, fingerprint
from jobs.foundation.errors import Interrupted, NotFound
from jobs.plan.records import Claim
from jobs.records.job_models import Input, Output
from jobs.storage.conditional import copy_exact
from jobs.storage.object_keys import output_location
from jobs.storage.objects import ATTEMPT, JOB, StoredObject, is_later
from jobs.wiring import Domain
from workers.edits.fetch_input import Fetched, InputFetcher
from workers.edits.store_result import next_standing, versioned

FROM = "reused-from"
"""Metadata: the job whose output was copied."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Equal:
    """An equal edit whose output is in the bucket still, as it was made."""

    made: Made
    there: StoredObject


@dataclass(frozen=True)
class Obtained:
    """What a job's picture is known to be.

    Attributes:
        input: all that is known of it.
        fetched: its bytes; None where they were not needed.
        equal: an edit that may stand for this one.
    """

    input: Input
    fetched: Fetched | None
    equal: Equal | None = None


class Reusing:
    """Finds and takes equal edits; one object serves all threads of a worker.

    Args:
        domain: what the process works with.
        fetcher: fetches pictures.
    """

    def __init__(self, domain: Domain, fetcher: InputFetcher) -> None:
        self._domain = domain
        self._fetcher = fetcher

    def obtain(self, claim: Claim, model: ModelSpec, stop: Callable[[], bool], *, reuse: bool = True) -> Obtained:
        """The picture of a job: read, or, where an equal edit is known and nothing changed, not even that.

        Args:
            claim: the attempt.
            model: what edits it.
            stop: whether to give up.
            reuse: whether equal edits are looked for; the job must want it, too.

        Raises:
            InputRejected, InputUnavailable, Interrupted: as fetching says.
            Unavailable, redis.exceptions.RedisError: a store does not answer.
        """
        image = claim.input.image
        if not (reuse and claim.spec.reuse):
            fetched = self._fetcher.fetch(image, model, claim.tenant, stop=stop)
            return Obtained(_known(image, fetched), fetched)
        before = self._domain.reuse.last_read(claim.tenant, image)
        new = self._fetcher.fetch_changed(image, model, claim.tenant, before, stop=stop)
        if new is None and before is not None:
            known = _remembered(image, before)
            equal = self._equal(claim, model, known)
            if equal is not None:
                return Obtained(known, None, equal)
        fetched = new or self._fetcher.fetch(image, model, claim.tenant, stop=stop)
        known = _known(image, fetched)
        if fetched.etag:
            read = LastRead(fetched.etag, fetched.sha256, len(fetched.data), fetched.picture)
            self._domain.reuse.remember(claim.tenant, image, read)
        return Obtained(known, fetched, self._equal(claim, model, known))

    def _equal(self, claim: Claim, model: ModelSpec, known: Input) -> Equal | None:
        """An equal edit whose output is where its record says, with the SHA-256 that it says."""
        print_ = fingerprint(claim.tenant, known.sha256 or "", claim.spec, model)
        made = self._domain.reuse.find(claim.tenant, print_, claim.claimed_at)
        if made is None:
            return None
        there = self._domain.bucket.head(made.output.bucket, made.output.key)
        whole = there is not None and there.size == made.output.bytes
        if there is None or not whole or there.metadata.get("sha256") != made.output.sha256:
            log.info("reuse.gone", made_by=made.job_id, key=made.output.key)
            return None
        return Equal(made, there)

    def take(self, claim: Claim, model: ModelSpec, equal: Equal) -> Output | None:
        """Copy the output of an equal edit to where this job's goes; None where it is gone by now.

        The copy's target is looked at before, not fenced by the store: S3's copy has no condition on it. What a late
        attempt may overwrite so within one round trip is a result of the same picture, prompt and parameters.

        Raises:
            Interrupted: a later attempt has kept its result.
            Unavailable, redis.exceptions.RedisError: a store does not answer.
        """
        made = equal.made.output
        settings, bucket = self._domain.settings, self._domain.bucket
        place = output_location(claim.spec, claim.job_id, made.media_type, settings.s3_bucket, settings.allowed_buckets)
        output = made.model_copy(
            update={"bucket": place[0], "key": place[1], "reused": True, "version": 1, "previous": None}
        )
        there = equal.there if place == (made.bucket, made.key) else bucket.head(*place)
        if there is not None and is_later(there, claim.job_id, claim.attempt):
            raise Interrupted("a later attempt has kept its result", code="lease_lost")
        if there is not None and there.metadata.get("sha256") == made.sha256 and there.size == made.bytes:
            # It lies there already, whoever put it: nothing is written, and nothing is a new version.
            return versioned(output, Standing.of(there)) if claim.supersede else output
        said = {"model": model.name, "sha256": made.sha256, FROM: equal.made.job_id}
        if made.seed is not None:
            said["seed"] = str(made.seed)
        said |= {JOB: claim.job_id, ATTEMPT: str(claim.attempt)}
        try:
            standing = next_standing(self._domain, claim.job_id, output, there) if claim.supersede else None
            copy_exact(
                bucket,
                (made.bucket, made.key),
                equal.there,
                place,
                metadata={**said, **(standing.metadata if standing else {})},
            )
        except NotFound:
            return None
        if standing is None:
            return output
        self._domain.versions.follow(output, standing)
        return versioned(output, standing)


def _known(image: str, fetched: Fetched) -> Input:
    picture = fetched.picture
    return Input(
        image=image,
        sha256=fetched.sha256,
        bytes=len(fetched.data),
        media_type=picture.media_type,
        width=picture.width,
        height=picture.height,
    )


def _remembered(image: str, read: LastRead) -> Input:
    picture = read.picture
    return Input(
        image=image,
        sha256=read.sha256,
        bytes=read.size,
        media_type=picture.media_type,
        width=picture.width,
        height=picture.height,
    )
