"""`POST /v1/images/edits`: StepFun's request and response format, through the queue at priority high.

Clients of StepFun's or OpenAI's SDK change only their base URL and API key. OpenAI fields that a model does not support
are accepted with neutral values (`n=1`, `quality=auto`, `stream=false`, `user`), and refused with other values.
"""

import base64
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from api.auth import CallerOf, authenticate
from api.context import BucketOf, CatalogueOf, JobReaderOf, JobSubmissionOf, JobWaiterOf, PlannerOf, SettingsOf
from api.http import bodies, schema
from api.http.multipart import read_form
from api.http.problems import DROPIN_PATH, RETRY_AFTER_S, dropin_error, of_any, render
from api.http.responses import with_output_url
from api.waiting import ClientGone, until_final_or_gone
from jobs.catalogue.catalogue import PARAMETERS, Catalogue
from jobs.edits.reader import JobReader
from jobs.edits.submission import parse_fields
from jobs.foundation.errors import FieldError, InputRejected, InvalidInput, RetouchError
from jobs.foundation.job_states import FINAL, State
from jobs.plan.planner import Planner
from jobs.records.job_models import Job, JobRequest
from jobs.storage.bucket import Bucket

QUEUE_ALLOWANCE_S = 300
"""Time for a job to wait in the queue, in seconds. The model's timeout is added to it."""
MAX_WAIT_S = 600
"""The SDKs time out after ten minutes."""
NO_RETRY = {"x-should-retry": "false"}
"""OpenAI's SDK respects this header. A retry would pay for a second edit while the first one continues."""

UNUSED = frozenset({"user", "safety_identifier"})
NEUTRAL = {
    "n": {"1"},
    "stream": {"false"},
    "partial_images": {"0"},
    "background": {"auto"},
    "quality": {"auto", "standard"},
    "size": {"auto"},
    "input_fidelity": {"low"},
}
"""OpenAI's fields with the values that do not change what a model does."""

router = APIRouter(tags=["drop-in"], dependencies=[Depends(authenticate)])
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class CompatibleEdit:
    """A parsed request of the drop-in endpoint."""

    request: JobRequest
    response_format: Literal["url", "b64_json"]
    wait_s: float


@router.post(
    DROPIN_PATH,
    summary="Edit an image and wait (drop-in for StepFun's and OpenAI's endpoint)",
    description=(
        "Responds when the edit is done. `X-Retouch-Job` is the job's id and `X-Trace-Id` that of the provider's call. "
        "If the provider filters the result, the response is a 200 with `finish_reason` `content_filtered`; if it "
        "refuses the edit, it is a 451. StepFun does the same. If the wait times out, the response is a 504 and the "
        "job continues. If the client disconnects before the job runs, the job is canceled."
    ),
    responses={
        200: {
            "description": "The edit.",
            "content": {
                "application/json": {
                    "example": {
                        "created": 1795347600,
                        "data": [{"seed": 7, "finish_reason": "success", "url": "https://bucket.example/…"}],
                    }
                }
            },
        },
        **schema.dropin_errors(400, 401, 413, 415, 429, 451, 500, 503, 504),
    },
    openapi_extra={"requestBody": schema.dropin_body()},
)
async def edit_image(
    *,
    request: Request,
    settings: SettingsOf,
    catalogue: CatalogueOf,
    submission: JobSubmissionOf,
    reader: JobReaderOf,
    planner: PlannerOf,
    bucket: BucketOf,
    waiter: JobWaiterOf,
    caller: CallerOf,
    idempotency_key: Annotated[str | None, Header()] = None,
    traceparent: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Submit the edit at priority high, wait, and respond in StepFun's format."""
    kind = bodies.media_type(request)
    if kind != "multipart/form-data":
        raise bodies.unsupported(kind, "multipart/form-data")
    limit = settings.max_upload_bytes
    async with read_form(request, limit) as form:
        edit = read_fields(form.values, catalogue)
        upload = await form.file(["image", "image[]"], limit)
    accepted = await run_in_threadpool(
        submission.submit,
        edit.request,
        tenant=caller.tenant,
        upload=upload,
        idempotency_key=idempotency_key,
        traceparent=traceparent,
    )
    try:
        job = await until_final_or_gone(waiter, request, caller.tenant, accepted.job.id, edit.wait_s)
        response = await run_in_threadpool(job_response, bucket, job, edit.response_format)
        if trace_id := _trace_id(job):
            response.headers["X-Trace-Id"] = trace_id
    except ClientGone:
        await run_in_threadpool(_cancel_abandoned, reader, planner, caller.tenant, accepted.job.id)
        return Response(status_code=499)
    except (RedisError, RetouchError) as error:  # the job exists already: a retry would pay for it twice
        response = render(request, of_any(error))
        response.headers.update(NO_RETRY)
    response.headers["X-Retouch-Job"] = accepted.job.id
    if accepted.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return response


def read_fields(values: Iterable[tuple[str, str]], catalogue: Catalogue) -> CompatibleEdit:
    """The form's text parts as a job's request.

    Raises:
        InvalidInput: it names every field that is unknown or that the model does not support.
    """
    texts: dict[str, str] = {}
    faults = []
    for name, value in values:
        if name in texts:
            faults.append(FieldError(name, "sent more than once", "repeated"))
        texts[name] = value
    model = catalogue.get(texts.get("model"))
    default = "b64_json" if model.dialect == "openai" else "url"
    response_format: Any = texts.pop("response_format", default)
    if response_format not in {"url", "b64_json"}:
        faults.append(FieldError("response_format", "must be url or b64_json", "out_of_range"))
    fields: dict[str, object] = {"priority": "high"}
    for name, value in texts.items():
        supported = name in {"model", "prompt"} or name in model.parameters
        if name in UNUSED or (not supported and value.lower() in NEUTRAL.get(name, ())):
            continue
        if supported or name in PARAMETERS:
            fields[name] = value
        elif name in NEUTRAL:
            allowed = " or ".join(sorted(NEUTRAL[name]))
            faults.append(FieldError(name, f"only {allowed} is supported", "unsupported"))
        else:
            faults.append(FieldError(name, "unknown field", "extra_forbidden"))
    if faults:
        raise InvalidInput(*faults)
    return CompatibleEdit(parse_fields(fields), response_format, min(model.timeout_s + QUEUE_ALLOWANCE_S, MAX_WAIT_S))


def job_response(bucket: Bucket, job: Job, response_format: str) -> Response:
    """The response for a job in StepFun's format: the result, the error, or the timeout of the wait."""
    if job.output is not None:
        return _success(job, _result(bucket, job, response_format))
    # StepFun reports a refusal by its HTTP status, and a filtered result as a success with a finish reason.
    if job.state is State.FILTERED and (job.error is None or job.error.provider_status in {None, 200}):
        return _success(job, {"seed": job.seed, "finish_reason": "content_filtered"})
    status, kind, message = _failure(job)
    headers = dict(NO_RETRY)
    if status in {429, 503}:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return dropin_error(status, kind, message, headers)


def _result(bucket: Bucket, job: Job, response_format: str) -> dict[str, object]:
    output = with_output_url(bucket, job).output
    if output is None:
        raise RetouchError(f"job {job.id} lost its output")
    result: dict[str, object] = {"seed": output.seed, "finish_reason": "success"}
    if response_format == "url":
        return result | {"url": output.url}
    try:
        data = bucket.get(output.bucket, output.key, max_bytes=output.bytes)
    except InputRejected as error:
        raise RetouchError(f"job {job.id} lost its output: {error}") from error
    return result | {"b64_json": base64.b64encode(data).decode()}


def _success(job: Job, result: dict[str, object]) -> JSONResponse:
    created = job.finished_at.timestamp() if job.finished_at else time.time()
    return JSONResponse({"created": int(created), "data": [result]})


FAILURES = {
    "input_rejected": (400, "request_params_invalid"),
    "request_refused": (400, "request_params_invalid"),
    "provider_timeout": (504, "timeout"),
    "deadline_exceeded": (504, "timeout"),
    "rate_limited": (429, "rate_limited"),
}
"""Status and type by the code of a failed job's error. Other codes are a 503 if a retry can help, else a 500."""


def _failure(job: Job) -> tuple[int, str, str]:
    if job.state not in FINAL:
        return 504, "timeout", f"the wait timed out and the job continues: read /v1/jobs/{job.id}"
    message = f"job {job.id}: {job.error.message if job.error else job.state}"
    if job.state is State.FILTERED:
        return 451, "censorship_blocked", message
    if job.state is State.CANCELED:
        return 409, "canceled", message
    retryable = job.error is not None and job.error.retryable
    other = (503, "service_unavailable") if retryable else (500, "internal_error")
    return (*FAILURES.get(job.error.code if job.error else "", other), message)


def _trace_id(job: Job) -> str | None:
    trace_ids = [attempt.trace_id for attempt in job.attempts if attempt.trace_id]
    if job.error is not None and job.error.trace_id:
        trace_ids.append(job.error.trace_id)
    return trace_ids[-1] if trace_ids else None


def _cancel_abandoned(reader: JobReader, planner: Planner, tenant: str, job_id: str) -> None:
    """Cancel a job after its client disconnected. An edit that runs is paid for already, so it continues."""
    try:
        if reader.get(tenant, job_id).state in {State.QUEUED, State.WAITING}:
            planner.cancel(job_id)
            log.info("job.abandoned_canceled", job_id=job_id)
    except (RedisError, RetouchError) as error:
        log.info("job.abandoned_not_canceled", job_id=job_id, reason=str(error))
