"""`/v1/jobs`: submit, read, list, cancel and retry jobs, and download their pictures."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.auth import CallerOf, authenticate
from api.context import BucketOf, EditLoopOf, JobReaderOf, JobSubmissionOf, JobWaiterOf, PlannerOf, SettingsOf
from api.http import bodies, schema
from api.http.multipart import job_fields, read_form
from api.http.responses import URL_LIVES_S, JobPage, SubmittedJob, answer, with_output_url
from api.waiting import ClientGone, until_final_or_gone
from jobs.edits.submission import parse_fields, parse_json
from jobs.foundation.errors import Conflict, InvalidInput, NotFound
from jobs.foundation.job_states import FINAL, State
from jobs.records.job_models import Job, JobRequest
from jobs.storage.object_keys import parse_s3_url

MAX_WAIT_S = 120
JOB_ID = re.compile(r"job_[0-9A-HJKMNP-TV-Z]{26}(-\d{7,8})?")

router = APIRouter(
    prefix="/v1/jobs", tags=["jobs"], dependencies=[Depends(authenticate)], responses=schema.problems(401, 503)
)


def valid_job_id(job_id: Annotated[str, Path(examples=["job_01KD3V6E5Y2M8Q4T7W9Z0ABCDE"])]) -> str:
    """A job id. Malformed ids are refused without a lookup.

    Raises:
        NotFound: the id is malformed.
    """
    if not JOB_ID.fullmatch(job_id):
        raise NotFound("no such job")
    return job_id


JobId = Annotated[str, Depends(valid_job_id)]


class JobQuery(BaseModel):
    """The query of the job list. Unknown parameters are refused, so that a typo does not list everything."""

    model_config = ConfigDict(extra="forbid")

    state: State | None = None
    batch_id: str | None = Field(default=None, max_length=64)
    custom_id: str | None = Field(default=None, max_length=256)
    limit: int = Field(default=50, ge=1, le=500)
    cursor: str | None = Field(default=None, max_length=1024)


@router.post(
    "",
    status_code=202,
    response_model=SubmittedJob,
    summary="Submit one edit",
    description=(
        "JSON, or multipart with the file part `image`. 202 means that the job is durable. "
        f"`Prefer: wait=N` (0 to {MAX_WAIT_S} seconds) delays the response until the job is final (200) or the time is "
        "up (202). The same `Idempotency-Key` and body within 24 hours return the same job."
    ),
    responses={
        200: {"model": SubmittedJob, "description": "The job became final during the wait."},
        **schema.problems(413, 415, 422, 429),
    },
    openapi_extra={"requestBody": schema.submit_body()},
)
async def submit_job(
    *,
    request: Request,
    settings: SettingsOf,
    submission: JobSubmissionOf,
    bucket: BucketOf,
    waiter: JobWaiterOf,
    caller: CallerOf,
    idempotency_key: Annotated[
        str | None, Header(description="1 to 255 printable ASCII characters, chosen by the client.")
    ] = None,
    prefer: Annotated[str | None, Header(description="`wait=30`")] = None,
    traceparent: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Submit the job, and wait for it if the client asked for that."""
    wait_s = preferred_wait(prefer)
    job_request, upload = await read_submission(request, settings.max_upload_bytes)
    accepted = await run_in_threadpool(
        submission.submit,
        job_request,
        tenant=caller.tenant,
        upload=upload,
        idempotency_key=idempotency_key,
        traceparent=traceparent,
    )
    job = accepted.job
    headers = {"Location": f"/v1/jobs/{job.id}"}
    if accepted.replayed:
        headers["Idempotent-Replayed"] = "true"
    if wait_s is not None:
        headers["Preference-Applied"] = f"wait={wait_s}"
        try:
            job = await until_final_or_gone(waiter, request, caller.tenant, job.id, wait_s)
        except ClientGone:
            return Response(status_code=202)
    body = SubmittedJob.model_construct(**dict(with_output_url(bucket, job)), warnings=list(accepted.warnings))
    return answer(body, 200 if wait_s is not None and job.state in FINAL else 202, headers)


async def read_submission(request: Request, limit: int) -> tuple[JobRequest, bytes | None]:
    """The request in either format, and the picture's bytes if it was uploaded.

    Raises:
        InvalidInput: it names every field with a wrong type or an unknown name.
        TooLarge: the picture has over `limit` bytes.
    """
    kind = bodies.media_type(request)
    if bodies.is_json(kind):
        # Base64 in a `data:` URL is a third larger than the picture.
        body = await bodies.read_body(request, limit * 4 // 3 + bodies.FORM_BYTES)
        return await run_in_threadpool(parse_json, body), None
    if kind != "multipart/form-data":
        raise bodies.unsupported(kind, "application/json", "multipart/form-data")
    async with read_form(request, limit) as form:
        job_request = parse_fields(job_fields(form.values))
        return job_request, await form.file(["image"], limit)


def preferred_wait(prefer: str | None) -> int | None:
    """The wait in seconds that a `Prefer` header (RFC 7240) asks for; None if it does not.

    Raises:
        InvalidInput: `wait` is not an integer between 0 and `MAX_WAIT_S`.
    """
    for preference in (prefer or "").split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            value = value.strip().strip('"')
            if not re.fullmatch(r"[0-9]{1,4}", value) or int(value) > MAX_WAIT_S:
                raise InvalidInput.of(
                    "Prefer", f"wait must be a whole number of seconds, 0 to {MAX_WAIT_S}", "out_of_range"
                )
            return int(value)
    return None


@router.get("", response_model=JobPage, summary="List jobs, newest first", responses=schema.problems(422))
def list_jobs(reader: JobReaderOf, bucket: BucketOf, caller: CallerOf, query: Annotated[JobQuery, Query()]) -> Response:
    """A page of the caller's jobs."""
    page = reader.page(
        caller.tenant,
        state=query.state,
        batch_id=query.batch_id,
        custom_id=query.custom_id,
        limit=query.limit,
        cursor=query.cursor,
    )
    data = [with_output_url(bucket, job) for job in page.data]
    return answer(JobPage.model_construct(data=data, next_cursor=page.next_cursor))


@router.get("/{job_id}", response_model=Job, summary="Read a job", responses=schema.problems(404))
def read_job(bucket: BucketOf, reader: JobReaderOf, caller: CallerOf, job_id: JobId) -> Response:
    """The job in its current state."""
    return answer(with_output_url(bucket, reader.get(caller.tenant, job_id)))


@router.post("/{job_id}/cancel", response_model=Job, summary="Cancel a job", responses=schema.problems(404, 409))
def cancel_job(
    *,
    reader: JobReaderOf,
    planner: PlannerOf,
    edit_loop: EditLoopOf,
    bucket: BucketOf,
    caller: CallerOf,
    job_id: JobId,
) -> Response:
    """Cancel a job that is not final; a running job stops at its next step."""
    reader.get(caller.tenant, job_id)
    planner.cancel(job_id)
    edit_loop.dispatch()
    return answer(with_output_url(bucket, reader.get(caller.tenant, job_id)))


@router.post("/{job_id}/retry", response_model=Job, summary="Retry a job", responses=schema.problems(404, 409))
def retry_job(
    *,
    reader: JobReaderOf,
    planner: PlannerOf,
    edit_loop: EditLoopOf,
    bucket: BucketOf,
    caller: CallerOf,
    job_id: JobId,
) -> Response:
    """Queue a failed, filtered or canceled job again."""
    job = reader.get(caller.tenant, job_id)
    planner.retry(job_id, deadline_s=job.deadline_s)
    edit_loop.dispatch()
    return answer(with_output_url(bucket, reader.get(caller.tenant, job_id)))


REDIRECT: dict[int | str, dict[str, Any]] = {
    307: {"description": "`Location` is the picture's URL.", "headers": {"Location": {"schema": {"type": "string"}}}}
}


@router.get(
    "/{job_id}/output",
    status_code=307,
    response_class=RedirectResponse,
    summary="Download the result",
    responses={**REDIRECT, **schema.problems(404, 409)},
)
def job_output(bucket: BucketOf, reader: JobReaderOf, caller: CallerOf, job_id: JobId) -> Response:
    """A redirect to the result; 409 while the job is not final, 404 if it ended without a result."""
    job = with_output_url(bucket, reader.get(caller.tenant, job_id))
    if job.output is not None and job.output.url is not None:
        return redirect(job.output.url)
    if job.state in FINAL:
        raise NotFound(f"the job is {job.state} and has no output")
    raise Conflict(f"the job is {job.state}: it has no output yet")


@router.get(
    "/{job_id}/input",
    status_code=307,
    response_class=RedirectResponse,
    summary="Download the submitted picture",
    responses={**REDIRECT, **schema.problems(404)},
)
def job_input(reader: JobReaderOf, bucket: BucketOf, caller: CallerOf, job_id: JobId) -> Response:
    """A redirect to the submitted picture: a presigned URL for pictures in a bucket, else the submitted URL."""
    image = reader.get(caller.tenant, job_id).input.image
    if image.startswith("s3://"):
        image = bucket.presign_get(*parse_s3_url(image), expires_s=URL_LIVES_S)
    return redirect(image)


def redirect(url: str) -> Response:
    """A 307 that caches do not store, because the URL expires."""
    return RedirectResponse(url, 307, headers={"Cache-Control": "private, no-store"})
