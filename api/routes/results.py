"""Streams a batch's output: results, refused rows, the pictures in an archive, the contact sheet."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi.responses import StreamingResponse

from api.auth import CallerOf, authenticate
from api.context import BatchesOf, BatchRowsOf, BucketOf, RejectFilesOf
from api.http import schema
from api.http.responses import URL_LIVES_S
from api.routes.batches import BatchId
from api.routes.jobs import REDIRECT, redirect
from jobs.batches.models import ENDED
from jobs.batches.results.contact_sheet import page_name
from jobs.batches.results.lines import csv_lines, json_line
from jobs.batches.results.rows import states
from jobs.batches.results.zip_archive import archive
from jobs.foundation.errors import Conflict, InvalidInput, NotFound
from jobs.storage.object_keys import record_key

BLOCK_BYTES = 64 * 1024
Form = Literal["jsonl", "csv"]
TYPES = {"jsonl": "application/jsonl", "csv": "text/csv; charset=utf-8"}

router = APIRouter(
    prefix="/v1/batches", tags=["batches"], dependencies=[Depends(authenticate)], responses=schema.problems(401, 503)
)


@router.get(
    "/{batch_id}/results",
    summary="Results, one row per item in manifest order",
    responses={200: {"content": {"application/jsonl": {}, "text/csv": {}}}, **schema.problems(404, 422)},
    response_class=StreamingResponse,
)
def results(
    *,
    batches: BatchesOf,
    rows: BatchRowsOf,
    caller: CallerOf,
    batch_id: BatchId,
    form: Annotated[Form, Query(alias="format")] = "jsonl",
    state: Annotated[str | None, Query(description="A state of a job, or `rejected`.")] = None,
) -> Response:
    """All items read so far; refused rows have the state `rejected`."""
    if state is not None and state not in states():
        raise InvalidInput.of("state", f"one of {', '.join(states())}")
    batch = batches.get(caller.tenant, batch_id)
    entries = rows.entries(batch, state=state)
    return _stream(csv_lines(entries) if form == "csv" else map(json_line, entries), form, f"{batch_id}-results")


@router.get(
    "/{batch_id}/rejects",
    summary="The refused rows and the reasons",
    description="CSV: correct the rows and submit the same file again; the columns `rejected_…` are ignored.",
    responses={200: {"content": {"text/csv": {}, "application/jsonl": {}}}, **schema.problems(404)},
    response_class=StreamingResponse,
)
def rejects(
    batches: BatchesOf,
    reject_files: RejectFilesOf,
    caller: CallerOf,
    batch_id: BatchId,
    form: Annotated[Form, Query(alias="format")] = "csv",
) -> Response:
    """Line number, field, reason, and the original row."""
    batch = batches.get(caller.tenant, batch_id)
    lines = reject_files.json_lines(batch) if form == "jsonl" else reject_files.csv_lines(batch)
    return _stream(lines, form, f"{batch_id}-rejects")


@router.get(
    "/{batch_id}/archive.zip",
    summary="The results as an archive, named by custom_id",
    responses={200: {"content": {"application/zip": {}}}, **schema.problems(404)},
    response_class=StreamingResponse,
)
def archived(batches: BatchesOf, rows: BatchRowsOf, bucket: BucketOf, caller: CallerOf, batch_id: BatchId) -> Response:
    """All results that exist now."""
    batch = batches.get(caller.tenant, batch_id)
    headers = {"Content-Disposition": f'attachment; filename="{batch_id}.zip"', "Cache-Control": "no-store"}
    return StreamingResponse(
        _with_first_computed(archive(rows, bucket, batch)), media_type="application/zip", headers=headers
    )


@router.get(
    "/{batch_id}/sheet/{page}",
    status_code=307,
    summary="A page of the contact sheet",
    responses={**REDIRECT, **schema.problems(404, 409)},
    response_class=Response,
)
def sheet(
    batches: BatchesOf, bucket: BucketOf, caller: CallerOf, batch_id: BatchId, page: Annotated[int, Path(ge=1)]
) -> Response:
    """A redirect to the page; batches with `sheet` have a contact sheet after they end."""
    batch = batches.get(caller.tenant, batch_id)
    if batch.sheet and (batch.state not in ENDED or batch.results is None):
        raise Conflict("the contact sheet is created after the batch has ended")
    if batch.results is None or not 1 <= page <= batch.results.sheet_pages:
        raise NotFound("the contact sheet has no such page")
    key = record_key(batch_id, page_name(page))
    return redirect(bucket.presign_get(bucket.name, key, expires_s=URL_LIVES_S))


def _stream(lines: Iterable[bytes], form: Form, name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}.{form}"', "Cache-Control": "no-store"}
    return StreamingResponse(_with_first_computed(_blocks(lines)), media_type=TYPES[form], headers=headers)


def _with_first_computed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks. The first is computed now, so that an early error is still rendered as a problem."""
    return chain([next(chunks, b"")], chunks)


def _blocks(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines joined to blocks, because each chunk is passed from a thread to the event loop."""
    block = bytearray()
    for line in lines:
        block += line
        if len(block) >= BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    yield bytes(block)
