"""`/v1/batches`: submit, read, list, follow, and act on batches."""

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
from api.context import BatchesOf, BatchSubmissionOf, BrokerOf, JobWaiterOf, TaskPublisherOf
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
from jobs.queueing.broker import Broker, ChorePublisher
from jobs.storage.streams import PIECE

BATCH_ID = re.compile(r"bat_[0-9A-HJKMNP-TV-Z]{26}")
JSON_BYTES = 64 * 1024 * 1024
"""Most bytes of a request with inline items."""
BEAT_S = 1.0
PING_S = 15

router = APIRouter(
    prefix="/v1/batches", tags=["batches"], dependencies=[Depends(authenticate)], responses=schema.problems(401, 503)
)


class BatchPage(BaseModel):
    """A page of batches, newest first."""

    data: list[Batch]
    next_cursor: str | None = Field(description="Send it as `cursor` to get the next page; null on the last page.")


class Listing(BaseModel):
    """The query of a list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=200)
    cursor: str | None = Field(default=None, max_length=64)


class Resumption(BaseModel):
    """What `resume` may change."""

    model_config = ConfigDict(extra="forbid")

    budget_usd: Budget | None = None


class Retrying(BaseModel):
    """Which jobs `retry` tries again."""

    model_config = ConfigDict(extra="forbid")

    states: list[State] = Field(default=[State.FAILED], description="`failed`, `filtered`, `canceled`")


def known_batch(batch_id: Annotated[str, Path(examples=["bat_01KD3V6E5Y2M8Q4T7W9Z0ABCDE"])]) -> str:
    """A batch's id; what cannot be one is not looked up.

    Raises:
        NotFound: it is none.
    """
    if not BATCH_ID.fullmatch(batch_id):
        raise NotFound("no such batch")
    return batch_id


BatchId = Annotated[str, Depends(known_batch)]


@router.post(
    "",
    status_code=202,
    response_model=Batch,
    summary="Submit a batch",
    description=(
        "JSON with `items` (up to 10,000) or `manifest` (`https://…`, `s3://bucket/key`, or `s3://bucket/prefix/` for "
        "every picture under it), or multipart with the file part `manifest` (CSV, JSONL or XLSX) and the other fields "
        "as form values; fields of a job stand for `defaults`. 202 means that the batch is durable; its rows are read "
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
    """Keep the manifest, write the batch."""
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
            raise InvalidInput.of(name, "no such file part: send the rows as manifest", "extra_forbidden")
    if len(files) > 1:
        raise InvalidInput.of("manifest", "exactly one", "repeated")
    return files[0][1] if files else None


def _digest(file: IO[bytes]) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type] # a spooled file is one


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(PIECE):
        yield piece


@router.get("", response_model=BatchPage, summary="List batches, newest first", responses=schema.problems(422))
def list_batches(batches: BatchesOf, caller: CallerOf, wanted: Annotated[Listing, Query()]) -> Response:
    """A page of the caller's batches."""
    page = batches.page(caller.tenant, limit=wanted.limit, cursor=wanted.cursor)
    return answer(BatchPage.model_construct(data=page.data, next_cursor=page.next_cursor))


@router.get("/{batch_id}", response_model=Batch, summary="Read a batch", responses=schema.problems(404))
def read(batches: BatchesOf, caller: CallerOf, batch_id: BatchId) -> Response:
    """The batch as it is now."""
    return answer(batches.get(caller.tenant, batch_id))


@router.post(
    "/{batch_id}/approve",
    response_model=Batch,
    summary="Let the rest be edited after the trial",
    description="Any parameters sent go over what the rows and the defaults say, for all that was not in the trial.",
    responses=schema.problems(404, 409, 422),
)
def approve(
    *,
    batches: BatchesOf,
    publisher: TaskPublisherOf,
    broker: BrokerOf,
    caller: CallerOf,
    batch_id: BatchId,
    changes: Annotated[Changes | None, Body()] = None,
) -> Response:
    """Release the rest."""
    return _answer_acted(publisher, broker, batches.approve(caller.tenant, batch_id, changes))


@router.post("/{batch_id}/pause", response_model=Batch, summary="Hold a batch", responses=schema.problems(404, 409))
def pause(
    batches: BatchesOf, publisher: TaskPublisherOf, broker: BrokerOf, caller: CallerOf, batch_id: BatchId
) -> Response:
    """Start nothing more of it; what runs goes on."""
    return _answer_acted(publisher, broker, batches.pause(caller.tenant, batch_id))


@router.post("/{batch_id}/resume", response_model=Batch, summary="Go on", responses=schema.problems(404, 409, 422))
def resume(
    *,
    batches: BatchesOf,
    publisher: TaskPublisherOf,
    broker: BrokerOf,
    caller: CallerOf,
    batch_id: BatchId,
    wanted: Annotated[Resumption | None, Body()] = None,
) -> Response:
    """Go on after a pause, with a new budget if one is given."""
    budget = wanted.budget_usd if wanted else None
    return _answer_acted(publisher, broker, batches.resume(caller.tenant, batch_id, budget))


@router.post("/{batch_id}/cancel", response_model=Batch, summary="Stop a batch", responses=schema.problems(404, 409))
def cancel(
    batches: BatchesOf, publisher: TaskPublisherOf, broker: BrokerOf, caller: CallerOf, batch_id: BatchId
) -> Response:
    """Stop it for good; what runs stops at its next step."""
    return _answer_acted(publisher, broker, batches.cancel(caller.tenant, batch_id))


@router.post(
    "/{batch_id}/retry", response_model=Batch, summary="Try its jobs again", responses=schema.problems(404, 409, 422)
)
def retry(
    *,
    batches: BatchesOf,
    publisher: TaskPublisherOf,
    broker: BrokerOf,
    caller: CallerOf,
    batch_id: BatchId,
    wanted: Annotated[Retrying | None, Body()] = None,
) -> Response:
    """Put jobs of these states back on their lanes."""
    return _answer_acted(publisher, broker, batches.retry(caller.tenant, batch_id, (wanted or Retrying()).states))


def _answer_acted(publisher: ChorePublisher, broker: Broker, batch: Batch) -> Response:
    publisher.publish_due()
    with suppress(RedisError, Unavailable):  # what was asked is done; every worker's pulse plans, too
        broker.dispatch()
    return answer(batch)


@router.get(
    "/{batch_id}/events",
    summary="Follow a batch",
    description="Server-sent events: `progress` with the batch, at most once a second and only when it changed, then "
    "one event named by the state it ended in (`completed`, `canceled`, `failed`).",
    response_class=EventSourceResponse,
    responses=schema.problems(404),
)
async def events(batches: BatchesOf, waiter: JobWaiterOf, caller: CallerOf, batch_id: BatchId) -> Response:
    """Read the record once a second for as long as somebody listens; no thread is held between."""
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
            await asyncio.sleep(BEAT_S)
            try:
                batch = await run_in_threadpool(batches.get, caller.tenant, batch_id)
            except NotFound:
                return
            except RedisError:
                continue  # away for a moment: the next beat tells

    return EventSourceResponse(follow(), ping=PING_S, headers={"X-Accel-Buffering": "no"})
