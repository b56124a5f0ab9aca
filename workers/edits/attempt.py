"""The steps of one attempt: fetch, call, checkpoint, download, verify, keep, settle.

The decision after a failure is `jobs.plan.retry_decision`'s; every write is fenced by the attempt's number.
"""

import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

import structlog
from redis.exceptions import RedisError

from jobs.catalogue.catalogue import ModelSpec
from jobs.edits.reuse import fingerprint
from jobs.foundation.errors import (
    BadResult,
    DeadlineExceeded,
    EditFailure,
    InputRejected,
    Interrupted,
    InvalidInput,
    ResultGone,
    StorageFailed,
    Transient,
    Unavailable,
)
from jobs.foundation.media_types import EXTENSIONS
from jobs.images.picture import Picture
from jobs.plan.records import Claim
from jobs.plan.retry_decision import History, decide
from jobs.plan.reuse_entry import Entry
from jobs.plan.settlement import OK, Settlement
from jobs.records.job_codec import MICRO
from jobs.records.job_models import Checkpoint, Output
from jobs.storage.object_keys import output_location
from jobs.wiring import Domain
from workers.dialects import Answer, EditCall, dialect_of
from workers.edits.active_attempts import Held
from workers.edits.download_result import download
from workers.edits.reuse import Equal, Obtained, Reusing
from workers.edits.store_result import found_again, place
from workers.edits.thumbnails import put_thumbnail
from workers.edits.verify_result import verify
from workers.net.http import Http
from workers.process.timings import AttemptReport, Stopwatch, answer_class

STORE_PAUSE_S = 0.5

T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Ended:
    """What became of an attempt: its settlement, and whether the fence let it be written."""

    settlement: Settlement
    failure: EditFailure | None
    written: bool


def insist(held: Held, step: Callable[[], T]) -> T:
    """Do a step that needs the store; while the store is away, wait for it rather than lose what is at hand.

    Raises:
        RedisError: the store is away and the worker must stop.
    """
    while True:
        try:
            return step()
        except RedisError as error:
            if held.interrupted:
                raise
            log.warning("edit.store_unreachable", error=str(error))
            held.pause(STORE_PAUSE_S)


class Attempt:
    """One attempt that a worker has claimed; `run` goes through its steps once."""

    def __init__(self, domain: Domain, held: Held, http: Http, reusing: Reusing, claim: Claim) -> None:
        self._domain = domain
        self._held = held
        self._http = http
        self._reusing = reusing
        self._claim = claim
        self._model: ModelSpec = domain.catalogue.get(claim.spec.model)
        self._price = round(self._model.price_usd * MICRO)
        self._called = False
        self._answered = False
        self._fetched_bytes = 0
        self._watch = Stopwatch(domain.spans)
        self._before: bytes | None = None
        self._trace_id: str | None = None
        self._begun = time.monotonic()

    def run(self) -> Ended:
        """Go through the steps and settle, whatever comes of them.

        Raises:
            RedisError: the store is away and the worker must stop: its lease will end by itself.
        """
        failure: EditFailure | None = None
        try:
            settlement = self._succeed()
        except EditFailure as error:
            failure = error
        except RedisError:
            raise
        except Unavailable as error:
            failure = StorageFailed(str(error))
        except InvalidInput as error:
            failure = InputRejected(str(error))
        except Exception as error:
            log.exception("edit.unexpected")
            failure = Transient(f"unexpected {type(error).__name__} in the worker", code="internal_error")
        cost = 0
        if failure is not None:
            settlement = self._decide(failure)
            cost = self._price if self._called and failure.maybe_billed else 0
        with self._watch.step("settle"):
            written = insist(
                self._held,
                lambda: self._domain.planner.settle(
                    self._claim, settlement, finished_at=self._now(), cost_micro_usd=cost, entry=self._entry(settlement)
                ),
            )
        self._tell_log(settlement, written)
        return Ended(settlement, failure, written)

    def _succeed(self) -> Settlement:
        claim = self._claim
        if claim.deadline is not None and self._now() >= claim.deadline:
            raise DeadlineExceeded("its deadline passed before it could be edited")
        checkpoint = claim.checkpoint
        if checkpoint is not None:
            output = self._resume(checkpoint)
            self._trace_id = checkpoint.trace_id
        else:
            output = self._buy()
        return Settlement.succeeded(output, signal=OK if self._called else None, trace_id=self._trace_id)

    def _buy(self) -> Output:
        """Fetch, call, checkpoint, and keep."""
        obtained = self._obtain()
        if obtained.equal is not None:
            output = self._take(obtained.equal)
            if output is not None:
                return output
            obtained = self._obtain(reuse=False)
        fetched = obtained.fetched
        if fetched is None:
            raise Transient("the picture was not read", code="internal_error")
        picture = fetched.picture
        self._held.check(self._claim)
        self._called = True
        self._held.calling(self._claim)
        with self._watch.step("provider"):
            answer = dialect_of(self._model, self._http).edit(
                EditCall(
                    model=self._model,
                    key=self._model.api_key(),
                    picture=fetched.data,
                    media_type=picture.media_type,
                    filename=f"input.{EXTENSIONS[picture.media_type]}",
                    parameters=self._claim.spec,
                    traceparent=self._domain.spans.traceparent(self._claim.spec.traceparent),
                    stop=self._stopped,
                )
            )
        self._answered = True
        self._trace_id = answer.trace_id
        if answer.url is not None:
            checkpoint = self._checkpoint_url(answer)
            return self._keep(self._download(checkpoint), checkpoint.seed, picture)
        if answer.data is None:
            raise BadResult("the answer has neither a URL nor a picture", maybe_billed=True)
        return self._keep(answer.data, answer.seed, picture, answer=answer)

    def _obtain(self, *, reuse: bool = True) -> Obtained:
        with self._watch.step("fetch"):
            obtained = insist(
                self._held, lambda: self._reusing.obtain(self._claim, self._model, self._stopped, reuse=reuse)
            )
        self._claim = replace(self._claim, input=obtained.input)
        data = obtained.fetched.data if obtained.fetched else b""
        self._fetched_bytes = len(data)
        self._before = data if self._claim.sheet and data else None
        return obtained

    def _take(self, equal: Equal) -> Output | None:
        """Take an equal edit's output instead of buying one; None where it is gone by now."""
        self._held.check(self._claim)
        with self._watch.step("put"):
            output = insist(self._held, lambda: self._reusing.take(self._claim, self._model, equal))
        if output is not None and self._claim.sheet:
            most = self._model.max_result_bytes
            made = self._domain.bucket.get(output.bucket, output.key, max_bytes=most)
            put_thumbnail(self._domain, self._claim.job_id, self._before, made)
        return output

    def _entry(self, settlement: Settlement) -> Entry | None:
        """Where equal edits will find this one, if it ends well."""
        claim = self._claim
        if settlement.output is None or claim.input.sha256 is None:
            return None
        print_ = fingerprint(claim.tenant, claim.input.sha256, claim.spec, self._model)
        return self._domain.reuse.entry(claim.tenant, print_, claim.job_id, self._now())

    def _resume(self, checkpoint: Checkpoint) -> Output:
        """Go on where an earlier attempt had the provider's answer: nothing is bought."""
        if checkpoint.kind == "url":
            return self._keep(self._download(checkpoint), checkpoint.seed, self._known_picture())
        return self._find_kept(checkpoint)

    def _checkpoint_url(self, answer: Answer) -> Checkpoint:
        checkpoint = Checkpoint(
            kind="url",
            url=answer.url,
            seed=answer.seed,
            at=self._now(),
            attempt=self._claim.attempt,
            trace_id=answer.trace_id,
        )
        self._record(checkpoint)
        return checkpoint

    def _record(self, checkpoint: Checkpoint) -> None:
        ours = insist(
            self._held,
            lambda: self._domain.planner.checkpoint(self._claim, checkpoint, cost_micro_usd=self._price),
        )
        if not ours:
            raise Interrupted("the job was canceled, or its lease was lost", code="lease_lost")

    def _download(self, checkpoint: Checkpoint) -> bytes:
        self._held.check(self._claim)
        url = checkpoint.url or ""
        age_s = (self._now() - checkpoint.at).total_seconds()
        if age_s > self._model.result_ttl_s:
            raise ResultGone(
                f"the provider's result is {age_s:.0f} s old and was kept for {self._model.result_ttl_s:g} s"
            )
        with self._watch.step("download"):
            return download(self._http, url, self._model, stop=self._stopped)

    def _keep(self, data: bytes, seed: int | None, source: Picture, *, answer: Answer | None = None) -> Output:
        """Verify a result and put it into the bucket; where its bytes came with the answer, the checkpoint first."""
        with self._watch.step("verify"):
            made = verify(data, source, self._model)
        digest = hashlib.sha256(data).hexdigest()
        claim = self._claim
        settings = self._domain.settings
        bucket, key = output_location(
            claim.spec, claim.job_id, made.media_type, settings.s3_bucket, settings.allowed_buckets
        )
        seed = seed if seed is not None else claim.spec.seed
        if answer is not None:
            self._record(
                Checkpoint(
                    kind="kept",
                    bucket=bucket,
                    key=key,
                    sha256=digest,
                    seed=seed,
                    at=self._now(),
                    attempt=claim.attempt,
                    trace_id=answer.trace_id,
                )
            )
        self._held.check(claim)
        output = Output(
            bucket=bucket,
            key=key,
            sha256=digest,
            bytes=len(data),
            media_type=made.media_type,
            width=made.width,
            height=made.height,
            seed=seed,
        )
        with self._watch.step("put"):
            output = self._put(output, data, hold=answer is not None)
        if claim.sheet:
            put_thumbnail(self._domain, claim.job_id, self._before, data)
        return output

    def _put(self, output: Output, data: bytes, *, hold: bool) -> Output:
        """Put the result into the bucket; returns it with its version.

        Args:
            output: where, and what is said of it.
            data: its bytes.
            hold: nobody else has them: they are held until the bucket takes them or the worker must stop.
        """
        claim = self._claim
        metadata = {"model": self._model.name, "sha256": output.sha256}
        if output.seed is not None:
            metadata["seed"] = str(output.seed)
        while True:
            try:
                kept = insist(self._held, lambda: place(self._domain, claim, output, data, metadata))
            except StorageFailed as error:
                if not hold or self._held.interrupted:
                    raise
                log.warning("edit.bucket_unreachable", error=error.message)
                self._held.pause(STORE_PAUSE_S)
                self._held.check(claim)
            else:
                break
        if kept is None:
            raise Interrupted("a later attempt has kept its result", code="lease_lost")
        return kept

    def _find_kept(self, checkpoint: Checkpoint) -> Output:
        """The output an earlier attempt put into the bucket, if the put came through."""
        bucket, key = checkpoint.bucket or "", checkpoint.key or ""
        found = self._domain.bucket.head(bucket, key)
        if found is None or found.metadata.get("sha256") != checkpoint.sha256:
            raise ResultGone("the worker that held the provider's answer was lost before the bucket had it")
        data = self._domain.bucket.get(bucket, key, max_bytes=self._model.max_result_bytes)
        made = verify(data, self._known_picture(), self._model)
        output = Output(
            bucket=bucket,
            key=key,
            sha256=checkpoint.sha256 or "",
            bytes=len(data),
            media_type=made.media_type,
            width=made.width,
            height=made.height,
            seed=checkpoint.seed,
        )
        return insist(self._held, lambda: found_again(self._domain, self._claim, output, found))

    def _known_picture(self) -> Picture:
        """The input, as it was recorded with the checkpoint; whether it was rotated is not known any more."""
        known = self._claim.input
        return Picture(known.media_type or "", known.width or 0, known.height or 0, exif_rotated=True)

    def _stopped(self) -> bool:
        return self._held.interrupted or self._held.is_lost(self._claim)

    def _decide(self, failure: EditFailure) -> Settlement:
        claim = self._claim
        history = History(claim.attempt, claim.tries, self._model.max_attempts, claim.deadline, claim.probe)
        settlement = decide(failure, history, self._now(), random.random())  # noqa: S311 - jitter
        return settlement if self._called else replace(settlement, signal=None)

    def _now(self) -> datetime:
        """By the server's clock: that of the claim, and what has passed here since."""
        passed = time.monotonic() - self._begun
        return datetime.fromtimestamp(self._claim.claimed_at.timestamp() + passed, UTC)

    def report(self, ended: Ended) -> AttemptReport:
        """What it did and how long that took."""
        claim, settlement = self._claim, ended.settlement
        output = settlement.output
        return AttemptReport(
            model=self._model.name,
            priority=claim.spec.priority,
            outcome=settlement.outcome,
            written=ended.written,
            queued_s=max(0.0, (claim.claimed_at - claim.queued_at).total_seconds()),
            took_s=time.monotonic() - self._begun,
            steps=self._watch.steps,
            answer=answer_class(ended.failure, called=self._called, answered=self._answered),
            fetched_bytes=self._fetched_bytes,
            kept_bytes=output.bytes if output and not output.reused else 0,
        )

    def _tell_log(self, settlement: Settlement, written: bool) -> None:
        log.info(
            "edit.settled",
            outcome=settlement.outcome,
            written=written,
            message=settlement.message,
            provider_trace_id=self._trace_id,
            seconds=round(time.monotonic() - self._begun, 3),
            steps={step: round(seconds, 3) for step, seconds in self._watch.steps.items()},
        )
