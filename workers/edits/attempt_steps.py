"""The steps of an attempt: obtain the input, call, checkpoint, download, verify, store.

Each step receives the result of the step before and returns its own, or raises what went wrong.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

import structlog

from jobs.catalogue.catalogue import ModelSpec
from jobs.foundation.errors import BadResult, Interrupted, ResultGone, StorageFailed, Transient
from jobs.foundation.media_types import EXTENSIONS
from jobs.foundation.tracing import Spans
from jobs.images.picture import Picture
from jobs.plan.planner import Planner
from jobs.plan.records import Claim
from jobs.records.job_codec import MICRO
from jobs.records.job_models import Checkpoint, Output
from jobs.storage.bucket import Bucket
from workers.dialects import dialect_of
from workers.dialects.calls import EditCall
from workers.edits.active_attempts import ActiveAttempts
from workers.edits.attempt_results import Answered, Downloaded, InputObtained, Progress, ReadyToCall, Stored, Verified
from workers.edits.download_result import download
from workers.edits.reuse import EqualEdit, EqualEdits
from workers.edits.store_result import ResultStore
from workers.edits.thumbnails import put_thumbnail
from workers.edits.verify_result import verify
from workers.net.http import Http
from workers.process.store_retry import STORE_PAUSE_S
from workers.process.timings import Stopwatch

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class StepTools:
    """What the steps of all attempts use. Safe in any number of threads at once.

    Attributes:
        planner: writes checkpoints and settlements.
        bucket: where the results are.
        results: stores them.
        equal_edits: fetches inputs and finds equal edits.
        http: calls providers and downloads their results.
        spans: makes the spans of traces.
        active: the attempts of this worker.
    """

    planner: Planner
    bucket: Bucket
    results: ResultStore
    equal_edits: EqualEdits
    http: Http
    spans: Spans
    active: ActiveAttempts


@dataclass(frozen=True)
class ServerClock:
    """The store's clock: the time of the claim, and what has passed in this process since.

    Attributes:
        claimed_at: by the store's clock.
        started: the same moment by this process's monotonic clock, in seconds.
    """

    claimed_at: datetime
    started: float = field(default_factory=time.monotonic)

    @property
    def passed_s(self) -> float:
        """Seconds since the claim."""
        return time.monotonic() - self.started

    def now(self) -> datetime:
        """The moment."""
        return datetime.fromtimestamp(self.claimed_at.timestamp() + self.passed_s, UTC)


class AttemptSteps:
    """The steps of one attempt.

    Args:
        tools: what the steps use.
        model: edits the picture.
        clock: the store's.
        watch: times the steps.
    """

    def __init__(self, tools: StepTools, model: ModelSpec, clock: ServerClock, watch: Stopwatch) -> None:
        self._tools = tools
        self._active = tools.active
        self._model = model
        self._clock = clock
        self._watch = watch

    def obtain_input(self, start: Progress, *, reuse: bool = True) -> InputObtained:
        """Fetch the input, or find an equal edit that makes its bytes unnecessary.

        Raises:
            EditFailure: the input cannot be fetched, or not now.
            Unavailable: a store does not answer.
        """
        claim = start.claim
        with self._watch.step("fetch"):
            obtained = self._active.retry_while_store_down(
                lambda: self._tools.equal_edits.obtain(claim, self._model, self._must_stop(claim), reuse=reuse)
            )
        fetched = obtained.fetched
        progress = replace(
            start, claim=replace(claim, input=obtained.input), fetched_bytes=len(fetched.data) if fetched else 0
        )
        return InputObtained(progress, fetched, obtained.equal)

    def copy_equal(self, obtained: InputObtained, equal: EqualEdit) -> Stored | None:
        """Copy the output of an equal edit; None where that output is gone meanwhile.

        Raises:
            Interrupted: the attempt must stop, or a later one has stored its result.
            Unavailable: a store does not answer.
        """
        claim = obtained.progress.claim
        self._active.check(claim)
        with self._watch.step("put"):
            output = self._active.retry_while_store_down(
                lambda: self._tools.equal_edits.take(claim, self._model, equal)
            )
        if output is None:
            return None
        if claim.sheet:
            after = self._tools.bucket.get(output.bucket, output.key, max_bytes=self._model.max_result_bytes)
            put_thumbnail(self._tools.bucket, claim.job_id, obtained.before, after)
        return Stored(obtained.progress, output)

    def prepare_call(self, obtained: InputObtained) -> ReadyToCall:
        """Check for the last time before the edit costs money.

        Raises:
            Interrupted: the attempt must stop.
        """
        if obtained.fetched is None:
            raise Transient("the picture was not read", code="internal_error")
        self._active.check(obtained.progress.claim)
        return ReadyToCall(obtained.progress, obtained.fetched, obtained.before)

    def call(self, ready: ReadyToCall) -> Answered:
        """Call the provider once.

        Raises:
            EditFailure: the provider refused, or did not answer.
        """
        claim, fetched = ready.progress.claim, ready.fetched
        picture = fetched.picture
        self._active.set_calling(claim)
        with self._watch.step("provider"):
            answer = dialect_of(self._model, self._tools.http).edit(
                EditCall(
                    model=self._model,
                    key=self._model.api_key(),
                    picture=fetched.data,
                    media_type=picture.media_type,
                    filename=f"input.{EXTENSIONS[picture.media_type]}",
                    parameters=claim.spec,
                    traceparent=self._tools.spans.traceparent(claim.spec.traceparent),
                    stop=self._must_stop(claim),
                )
            )
        progress = replace(ready.progress, called=True, answered=True, trace_id=answer.trace_id)
        return Answered(progress, answer, picture, ready.before)

    def store_answer(self, answered: Answered) -> Stored:
        """Checkpoint the answer, then bring the result into the bucket.

        Raises:
            EditFailure: the result cannot be fetched, is no edit of the input, or cannot be stored.
            InvalidInput: the job's output key is invalid.
        """
        answer = answered.answer
        if answer.url is not None:
            checkpoint = self._checkpoint(answered.progress, kind="url", url=answer.url, seed=answer.seed)
            downloaded = self.download(answered.progress, checkpoint, answered.source, before=answered.before)
            return self.store(self.verify(downloaded))
        if answer.data is None:
            raise BadResult("the answer has neither a URL nor a picture", maybe_billed=True)
        received = Downloaded(
            answered.progress, answer.data, answer.seed, answered.source, answered.before, only_copy=True
        )
        verified = self.verify(received)
        output = verified.output
        self._checkpoint(
            answered.progress,
            kind="kept",
            bucket=output.bucket,
            key=output.key,
            sha256=output.sha256,
            seed=output.seed,
        )
        return self.store(verified)

    def resume(self, start: Progress, checkpoint: Checkpoint) -> Stored:
        """Continue from the answer that an earlier attempt has recorded: nothing is bought.

        Raises:
            EditFailure: the result cannot be fetched, is no edit of the input, or cannot be stored.
            InvalidInput: the job's output key is invalid.
            Unavailable: the bucket does not answer.
        """
        source = _recorded_picture(start.claim)
        if checkpoint.kind == "url":
            return self.store(self.verify(self.download(start, checkpoint, source)))
        return self._adopt_stored(start, checkpoint, source)

    def download(
        self, progress: Progress, checkpoint: Checkpoint, source: Picture, *, before: bytes | None = None
    ) -> Downloaded:
        """Fetch the result that the provider holds.

        Raises:
            ResultGone: the provider no longer has it.
            EditFailure: it cannot be fetched now.
        """
        claim = progress.claim
        self._active.check(claim)
        age_s = (self._clock.now() - checkpoint.at).total_seconds()
        if age_s > self._model.result_ttl_s:
            raise ResultGone(
                f"the provider's result is {age_s:.0f} s old; the provider keeps it for {self._model.result_ttl_s:g} s"
            )
        with self._watch.step("download"):
            data = download(self._tools.http, checkpoint.url or "", self._model, stop=self._must_stop(claim))
        return Downloaded(progress, data, checkpoint.seed, source, before)

    def verify(self, downloaded: Downloaded) -> Verified:
        """Check that the result is an edit of the input, and choose its key.

        Raises:
            BadResult: it is not.
            InvalidInput: the job's output key is invalid.
        """
        data, claim = downloaded.data, downloaded.progress.claim
        with self._watch.step("verify"):
            picture = verify(data, downloaded.source, self._model)
        location = self._tools.results.location(claim, picture.media_type)
        seed = downloaded.seed if downloaded.seed is not None else claim.spec.seed
        return Verified(downloaded, _output(location, data, hashlib.sha256(data).hexdigest(), picture, seed))

    def store(self, verified: Verified) -> Stored:
        """Put the result into the bucket, and its thumbnail where the batch wants one.

        Raises:
            Interrupted: the attempt must stop, or a later one has stored its result.
            StorageFailed: the bucket does not answer or refuses the object.
        """
        downloaded = verified.downloaded
        claim = downloaded.progress.claim
        self._active.check(claim)
        with self._watch.step("put"):
            output = self._put(claim, verified.output, downloaded.data, only_copy=downloaded.only_copy)
        if claim.sheet:
            put_thumbnail(self._tools.bucket, claim.job_id, downloaded.before, downloaded.data)
        return Stored(downloaded.progress, output)

    def _put(self, claim: Claim, output: Output, data: bytes, *, only_copy: bool) -> Output:
        """Put the result into the bucket; the only copy is kept in memory until the bucket accepts it."""
        metadata = {"model": self._model.name, "sha256": output.sha256}
        if output.seed is not None:
            metadata["seed"] = str(output.seed)
        while True:
            try:
                stored = self._active.retry_while_store_down(
                    lambda: self._tools.results.store_result(claim, output, data, metadata)
                )
            except StorageFailed as error:
                if not only_copy or self._active.interrupted:
                    raise
                log.warning("edit.bucket_unreachable", error=error.message)
                self._active.pause(STORE_PAUSE_S)
                self._active.check(claim)
            else:
                break
        if stored is None:
            raise Interrupted("a later attempt has stored its result", code="lease_lost")
        return stored

    def _checkpoint(self, progress: Progress, **answer: object) -> Checkpoint:
        """Record the provider's answer and its price before anything else is done with it."""
        claim = progress.claim
        checkpoint = Checkpoint.model_validate(
            {**answer, "at": self._clock.now(), "attempt": claim.attempt, "trace_id": progress.trace_id}
        )
        price = price_micro_usd(self._model)
        written = self._active.retry_while_store_down(
            lambda: self._tools.planner.checkpoint(claim, checkpoint, cost_micro_usd=price)
        )
        if not written:
            raise Interrupted("the job was canceled, or its lease was lost", code="lease_lost")
        return checkpoint

    def _adopt_stored(self, start: Progress, checkpoint: Checkpoint, source: Picture) -> Stored:
        """Take the output that an earlier attempt has put into the bucket, if its put succeeded."""
        bucket, key, sha256 = checkpoint.bucket or "", checkpoint.key or "", checkpoint.sha256 or ""
        there = self._tools.bucket.head(bucket, key)
        if there is None or there.metadata.get("sha256") != sha256:
            raise ResultGone("the worker that held the provider's answer was lost before it was in the bucket")
        data = self._tools.bucket.get(bucket, key, max_bytes=self._model.max_result_bytes)
        picture = verify(data, source, self._model)
        output = _output((bucket, key), data, sha256, picture, checkpoint.seed)
        adopted = self._active.retry_while_store_down(
            lambda: self._tools.results.adopt_stored_result(start.claim, output, there)
        )
        return Stored(start, adopted)

    def _must_stop(self, claim: Claim) -> Callable[[], bool]:
        return partial(self._active.must_stop, claim)


def price_micro_usd(model: ModelSpec) -> int:
    """The price of one edit, in millionths of a US dollar."""
    return round(model.price_usd * MICRO)


def _output(location: tuple[str, str], data: bytes, sha256: str, picture: Picture, seed: int | None) -> Output:
    return Output(
        bucket=location[0],
        key=location[1],
        sha256=sha256,
        bytes=len(data),
        media_type=picture.media_type,
        width=picture.width,
        height=picture.height,
        seed=seed,
    )


def _recorded_picture(claim: Claim) -> Picture:
    """The input as it was recorded with the checkpoint. The record does not say whether it was rotated."""
    known = claim.input
    return Picture(known.media_type or "", known.width or 0, known.height or 0, exif_rotated=True)
