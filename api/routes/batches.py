"""`/v1/batches`: submit, read, list, follow and control batches."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import IO, Annotated

from fastapi import APIRouter, Body, Depends, Header, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from redis.exceptions import RedisError
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from api.auth import CallerOf, authenticate
from api.context import BatchesOf, BatchSubmissionOf, EditLoopOf, JobWaiterOf, TaskPublisherOf
from api.http import bodies, schema
from api.http.multipart import job_fields, read_form
from api.http.responses import answer
from jobs.batches.ingest import MAX_BYTES
from jobs.batches.models import ENDED, Batch, Budget, Changes
from jobs.batches.submission import (
    AcceptedBatch,
    Upload,
    manifest_missing,
    parse_batch,
    parse_options,
    with_manifest,
)
from jobs.foundation.errors import InvalidInput, NotFound, Unavailable
from jobs.foundation.job_states import State
from jobs.plan.records import Dispatch
from jobs.queueing.dispatch_loop import DispatchLoop
from jobs.queueing.publisher import TaskPublisher
from jobs.storage.streams import PIECE

BATCH_ID = re.compile(r"bat_[0-9A-HJKMNP-TV-Z]{26}")
JSON_BYTES = 64 * 1024 * 1024
"""Size limit of a request with inline items, in bytes."""
POLL_S = 1.0
PING_S = 15

router = APIRouter(
    prefix="/v1/batches", tags=["batches"], dependencies=[Depends(authenticate)], responses=schema.problems(401, 503)
)


class BatchPage(BaseModel):
    """A page of batches, newest first."""

    data: list[Batch]
    next_cursor: str | None = Field(description="Send it as `cursor` to get the next page; null on the last page.")


class BatchQuery(BaseModel):
    """The query of the batch list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=200)
    cursor: str | None = Field(default=None, max_length=64)


class Resumption(BaseModel):
    """The optional body of `resume`."""

    model_config = ConfigDict(extra="forbid")

    budget_usd: Budget | None = None


class Retrying(BaseModel):
    """The optional body of `retry`: the states of the jobs to retry."""

    model_config = ConfigDict(extra="forbid")

    states: list[State] = Field(default=[State.FAILED], description="`failed`, `filtered`, `canceled`")


def valid_batch_id(batch_id: Annotated[str, Path(examples=["bat_01KD3V6E5Y2M8Q4T7W9Z0ABCDE"])]) -> str:
    """A batch id. Malformed ids are refused without a lookup.

    Raises:
        NotFound: the id is malformed.
    """
    if not BATCH_ID.fullmatch(batch_id):
        raise NotFound("no such batch")
    return batch_id


BatchId = Annotated[str, Depends(valid_batch_id)]


@router.post(
    "",
    status_code=202,
    response_model=Batch,
    summary="Submit a batch",
    description=(
        "JSON with `items` (up to 10,000) or `manifest` (`https://…`, `s3://bucket/key`, or `s3://bucket/prefix/` for "
        "all pictures under it), or multipart with the file part `manifest` (CSV, JSONL or XLSX) and the other fields "
        "as form values; fields of a job become `defaults`. 202 means that the batch is durable; its rows are read "
        "afterwards. The same `Idempotency-Key` and request within 24 hours answers with the same batch."
    ),
    responses=schema.problems(413, 415, 422, 429),
    openapi_extra={"requestBody": schema.batch_body()},
)
async def submit(
    *,
    request: Request,
    submission: BatchSubmissionOf,
    caller: CallerOf,
    idempotency_key: Annotated[str | None, Header(description="1 to 255 printable ASCII characters.")] = None,
    traceparent: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """JobReader the manifest and the batch."""
    kind = bodies.media_type(request)
    write = partial(
        submission.submit,
        tenant=caller.tenant,
        idempotency_key=idempotency_key,
        traceparent=traceparent,
    )
    if bodies.is_json(kind):
        body = await bodies.read_body(request, JSON_BYTES)
        accepted = await run_in_threadpool(lambda: write(parse_batch(body)))
    elif kind == "multipart/form-data":
        async with read_form(request, MAX_BYTES) as form:
            manifest = _manifest_of(form.files)
            accepted = await run_in_threadpool(_submit_form, write, job_fields(form.values), manifest)
    else:
        raise bodies.unsupported(kind, "application/json", "multipart/form-data")
    headers = {"Location": f"/v1/batches/{accepted.batch.id}"}
    if accepted.replayed:
        headers["Idempotent-Replayed"] = "true"
    return answer(accepted.batch, 202, headers)


def _submit_form(
    write: Callable[..., AcceptedBatch], fields: dict[str, object], manifest: UploadFile | None
) -> AcceptedBatch:
    if manifest is None:
        address = fields.pop("manifest", None)
        options = parse_options(fields)
        if not isinstance(address, str):
            raise manifest_missing()
        return write(with_manifest(options, address))
    upload = Upload(manifest.filename or "manifest", _pieces(manifest.file), _digest(manifest.file))
    return write(parse_options(fields), upload=upload)


def _manifest_of(files: list[tuple[str, UploadFile]]) -> UploadFile | None:
    for name, _ in files:
        if name != "manifest":
            raise InvalidInput.of(name, "unknown file part: send the manifest as manifest", "extra_forbidden")
    if len(files) > 1:
        raise InvalidInput.of("manifest", "send exactly one manifest", "repeated")
    return files[0][1] if files else None


def _digest(file: IO[bytes]) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type] # a spooled file has the needed methods


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(PIECE):
        yield piece


@router.get("", response_model=BatchPage, summary="List batches, newest first", responses=schema.problems(422))
def list_batches(batches: BatchesOf, caller: CallerOf, query: Annotated[BatchQuery, Query()]) -> Response:
    """A page of the caller's batches."""
    page = batches.page(caller.tenant, limit=query.limit, cursor=query.cursor)
    return answer(BatchPage.model_construct(data=page.data, next_cursor=page.next_cursor))


@router.get("/{batch_id}", response_model=Batch, summary="Read a batch", responses=schema.problems(404))
def read(batches: BatchesOf, caller: CallerOf, batch_id: BatchId) -> Response:
    """The batch in its current state."""
    return answer(batches.get(caller.tenant, batch_id))


@router.post(
    "/{batch_id}/approve",
    response_model=Batch,
    summary="Approve the trial and edit the other items",
    description="Parameters in the body override those of the rows and the defaults, for all items outside the trial.",
    responses=schema.problems(404, 409, 422),
)
def approve(
    *,
    batches: BatchesOf,
    publisher: TaskPublisherOf,
    edit_loop: EditLoopOf,
    caller: CallerOf,
    batch_id: BatchId,
    changes: Annotated[Changes | None, Body()] = None,
) -> Response:
    """Start the items outside the trial."""
    return _dispatch_and_answer(publisher, edit_loop, batches.approve(caller.tenant, batch_id, changes))


@router.post("/{batch_id}/pause", response_model=Batch, summary="Pause a batch", responses=schema.problems(404, 409))
def pause(
    batches: BatchesOf, publisher: TaskPublisherOf, edit_loop: EditLoopOf, caller: CallerOf, batch_id: BatchId
) -> Response:
    """Start no more jobs of the batch; running jobs continue."""
    return _dispatch_and_answer(publisher, edit_loop, batches.pause(caller.tenant, batch_id))


@router.post(
    "/{batch_id}/resume", response_model=Batch, summary="Resume a batch", responses=schema.problems(404, 409, 422)
)
def resume(
    *,
    batches: BatchesOf,
    publisher: TaskPublisherOf,
    edit_loop: EditLoopOf,
    caller: CallerOf,
    batch_id: BatchId,
    wanted: Annotated[Resumption | None, Body()] = None,
) -> Response:
    """Resume a paused batch, with a new budget if the body has one."""
    budget = wanted.budget_usd if wanted else None
    return _dispatch_and_answer(publisher, edit_loop, batches.resume(caller.tenant, batch_id, budget))


@router.post("/{batch_id}/cancel", response_model=Batch, summary="Cancel a batch", responses=schema.problems(404, 409))
def cancel(
    batches: BatchesOf, publisher: TaskPublisherOf, edit_loop: EditLoopOf, caller: CallerOf, batch_id: BatchId
) -> Response:
    """Cancel the batch permanently; running jobs stop at their next step."""
    return _dispatch_and_answer(publisher, edit_loop, batches.cancel(caller.tenant, batch_id))


@router.post(
    "/{batch_id}/retry", response_model=Batch, summary="Retry jobs of a batch", responses=schema.problems(404, 409, 422)
)
def retry(
    *,
    batches: BatchesOf,
    publisher: TaskPublisherOf,
    edit_loop: EditLoopOf,
    caller: CallerOf,
    batch_id: BatchId,
    wanted: Annotated[Retrying | None, Body()] = None,
) -> Response:
    """Queue the batch's jobs in these states again."""
    return _dispatch_and_answer(
        publisher, edit_loop, batches.retry(caller.tenant, batch_id, (wanted or Retrying()).states)
    )


def _dispatch_and_answer(publisher: TaskPublisher, edit_loop: DispatchLoop[Dispatch], batch: Batch) -> Response:
    publisher.publish_due()
    with suppress(RedisError, Unavailable):  # the action is stored already; each worker heartbeat dispatches, too
        edit_loop.dispatch()
    return answer(batch)


@router.get(
    "/{batch_id}/events",
    summary="Follow a batch",
    description="Server-sent events: `progress` with the batch, at most once a second and only after a change, then "
    "one event named after the batch's final state (`completed`, `canceled`, `failed`).",
    response_class=EventSourceResponse,
    responses=schema.problems(404),
)
async def events(batches: BatchesOf, waiter: JobWaiterOf, caller: CallerOf, batch_id: BatchId) -> Response:
    """Read the batch once a second while the client is connected; no thread is blocked in between."""
    first = await run_in_threadpool(batches.get, caller.tenant, batch_id)

    async def follow() -> AsyncIterator[ServerSentEvent]:
        shown, batch = "", first
        while True:
            text = batch.model_dump_json()
            if batch.state in ENDED:
                yield ServerSentEvent(text, event=batch.state.value)
                return
            if text != shown:
                yield ServerSentEvent(text, event="progress")
                shown = text
            if waiter.stopping:
                return
            await asyncio.sleep(POLL_S)
            try:
                batch = await run_in_threadpool(batches.get, caller.tenant, batch_id)
            except NotFound:
                return
            except RedisError:
                continue  # Redis is unavailable: try again at the next poll

    return EventSourceResponse(follow(), ping=PING_S, headers={"X-Accel-Buffering": "no"})
