"""From a request to a durable, planned job: every rule is checked, and the picture is in the bucket, before the write.

A refused submit leaves nothing behind: no record and no object.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
from redis.exceptions import RedisError

from jobs.edits.reader import JobReader
from jobs.edits.rules import CheckedJob, JobRules, draw_seed, idempotency_digest, warnings
from jobs.edits.uploads import Uploaded, UploadedPictures
from jobs.foundation.errors import RetouchError, Unavailable
from jobs.foundation.ids import new_job_id
from jobs.foundation.input_errors import validated
from jobs.foundation.tracing import Spans, valid_traceparent
from jobs.plan.planner import Planner
from jobs.plan.records import Draft, Idempotency, Submitted
from jobs.records.job_codec import new_job
from jobs.records.job_models import Input, Job, JobRequest, JobSpec

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class AcceptedJob:
    """A job that was accepted and is durable.

    Attributes:
        job: as the API shows it, in the state in which it was written; as it is now where `replayed`.
        replayed: it is the job of an earlier submit with the same Idempotency-Key; nothing was written.
        warnings: accepted fields without effect, one sentence each.
    """

    job: Job
    replayed: bool = False
    warnings: tuple[str, ...] = ()


def parse_json(body: bytes) -> JobRequest:
    """A request written as JSON. A number in quotes is invalid.

    Raises:
        InvalidInput: naming every field of a wrong type, and every unknown one.
    """
    return validated(JobRequest.model_validate_json, body, strict=True)


def parse_fields(fields: Mapping[str, object]) -> JobRequest:
    """A request written as the texts of a form or a table, read as the types that the fields have.

    Raises:
        InvalidInput: naming every field that is not of its type, and every unknown one.
    """
    return validated(JobRequest.model_validate, fields)


def request_fingerprint(request: JobRequest, picture_sha256: str | None) -> str:
    """SHA-256 (hex) of a request. It is the same for the same fields and picture in any order and form."""
    meaning = request.model_dump(mode="json", exclude_defaults=True)
    if picture_sha256 is not None:
        meaning["image"] = f"sha256:{picture_sha256}"
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


class JobSubmission:
    """Submits single jobs. Safe in any number of threads at once.

    Args:
        rules: check requests.
        pictures: where uploaded pictures are put.
        planner: writes the job.
        dispatch: starts the jobs that may start.
        reader: reads the job of a replayed submit.
        spans: the trace that the job continues.
    """

    def __init__(
        self,
        rules: JobRules,
        pictures: UploadedPictures,
        *,
        planner: Planner,
        dispatch: Callable[[], object],
        reader: JobReader,
        spans: Spans,
    ) -> None:
        self._rules = rules
        self._pictures = pictures
        self._planner = planner
        self._start = dispatch
        self._reader = reader
        self._spans = spans

    def submit(
        self,
        request: JobRequest,
        *,
        tenant: str,
        upload: bytes | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> AcceptedJob:
        """Check a request, put its picture, write the job and plan.

        When this returns the job is durable.

        Args:
            request: the submitted fields, already of the right types.
            tenant: its name.
            upload: the picture's bytes, where they came in a file part.
            idempotency_key: 1 to 255 printable ASCII characters.
            traceparent: W3C trace context of the request; an invalid one is ignored.

        Raises:
            InvalidInput: naming every field that breaks a rule.
            TooLarge: the picture has over `settings.max_upload_bytes`.
            IdempotencyMismatch, QuotaExceeded: see `Planner.submit`.
            NotFound: the job of a replayed submit has expired.
            Unavailable, redis.exceptions.RedisError: a store does not answer.
        """
        digest = idempotency_digest(idempotency_key)
        job_id = new_job_id()
        checked = self._rules.check(request, tenant=tenant, job_id=job_id, upload=upload)
        draft = _draft(job_id, request, checked, valid_traceparent(self._spans, traceparent))
        idempotency = None
        if digest is not None:
            idempotency = Idempotency(digest, request_fingerprint(request, draft.input.sha256))
        written = self._write(draft, tenant, checked.uploaded, idempotency)
        self._dispatch(written.job_ids[0])
        if written.states:
            job = new_job(job_id, tenant, draft.spec, draft.input, written.states[0])
        else:
            job = self._reader.get(tenant, written.job_ids[0])
        return AcceptedJob(job, replayed=written.replayed, warnings=tuple(warnings(request, checked.model)))

    def _write(
        self, draft: Draft, tenant: str, uploaded: Uploaded | None, idempotency: Idempotency | None
    ) -> Submitted:
        try:
            if uploaded is not None:
                self._pictures.put(uploaded)
            written = self._planner.submit([draft], tenant=tenant, idempotency=idempotency)
        except RetouchError:
            # Errors of Redis are not caught on purpose: the job may have been written, and then needs its picture.
            if uploaded is not None:
                self._pictures.delete(uploaded)
            raise
        if uploaded is not None and written.replayed:
            self._pictures.delete(uploaded)
        return written

    def _dispatch(self, job_id: str) -> None:
        try:
            self._start()
        except (RedisError, Unavailable) as error:
            # The job is durable, and every worker's heartbeat plans: this failure costs a moment, not the answer.
            log.warning("submit.not_dispatched", job_id=job_id, error=str(error))


def _draft(job_id: str, request: JobRequest, checked: CheckedJob, traceparent: str | None) -> Draft:
    """The job as it is written: the model is named, the seed is chosen, the picture is an address."""
    picture = checked.uploaded.input if checked.uploaded else Input(image=request.image or "")
    spec = JobSpec.model_validate(
        request.model_dump()
        | {
            "model": checked.model.name,
            "seed": draw_seed(checked.model) if request.seed is None else request.seed,
            "seed_given": request.seed is not None,
            "image": picture.image,
            "traceparent": traceparent,
        }
    )
    return Draft(job_id, spec, picture)
