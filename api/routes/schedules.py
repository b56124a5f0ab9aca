"""`/v1/schedules`: batches at scheduled times, and their runs."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.auth import CallerOf, authenticate
from api.context import RunsOf, SchedulesOf, ScheduleSubmissionOf, TaskPublisherOf
from api.http import bodies, schema
from api.http.responses import answer
from jobs.batches.models import BatchDefaults
from jobs.foundation.errors import NotFound
from jobs.foundation.input_errors import validated
from jobs.schedules.models import Run, Schedule, ScheduleChange, ScheduleRequest
from jobs.schedules.submission import ScheduleSubmission

JSON_BYTES = 64 * 1024 * 1024
"""Size limit of a request with inline items, in bytes."""
SCHEDULE_ID = re.compile(r"sch_[0-9A-HJKMNP-TV-Z]{26}")
RUN_ID = re.compile(r"run_[0-9A-HJKMNP-TV-Z]{26}-[0-9]{13}m?")
EXAMPLE = {
    "name": "nightly catalogue",
    "cron": "30 2 * * *",
    "timezone": "Europe/Berlin",
    "manifest": "s3://shop/incoming/",
    "defaults": {"prompt": "Put the product on a white background", "output_key": "shop/{custom_id}.{ext}"},
    "overlap": "skip",
    "catch_up_s": 7200,
    "supersede": True,
    "budget_usd": 25,
}

router = APIRouter(
    prefix="/v1/schedules",
    tags=["schedules"],
    dependencies=[Depends(authenticate)],
    responses=schema.problems(401, 503),
)


class ScheduleList(BaseModel):
    """A page of schedules, newest first."""

    data: list[Schedule]
    next_cursor: str | None = Field(description="Send it as `cursor` to get the next page; null on the last page.")


class RunList(BaseModel):
    """A page of runs, newest first."""

    data: list[Run]
    next_cursor: str | None = Field(description="Send it as `cursor` to get the next page; null on the last page.")


class ScheduleQuery(BaseModel):
    """The query of the lists of schedules and runs."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=200)
    cursor: str | None = Field(default=None, max_length=64)


def valid_schedule_id(schedule_id: Annotated[str, Path(examples=["sch_01KD3V6E5Y2M8Q4T7W9Z0ABCDE"])]) -> str:
    """A schedule id. Malformed ids are refused without a lookup.

    Raises:
        NotFound: the id is malformed.
    """
    if not SCHEDULE_ID.fullmatch(schedule_id):
        raise NotFound("no such schedule")
    return schedule_id


ScheduleId = Annotated[str, Depends(valid_schedule_id)]


def _body(model: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI description of a body that the route reads itself, with a size limit."""
    fields = model.model_json_schema(ref_template="#/components/schemas/{model}")
    fields.pop("$defs", None)
    fields["properties"]["defaults"] = {
        **BatchDefaults.model_json_schema(),
        "description": "Values for all items; `reuse` is true by default.",
    }
    fields["properties"].pop("not_before", None)
    described = {
        "cron": "Five fields, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.",
        "timezone": "IANA time zone in which `cron` is evaluated.",
        "manifest": "`s3://bucket/key`, `https://…`, or `s3://bucket/prefix/` for all pictures under it.",
        "items": "Up to 10,000 rows instead of a manifest.",
        "only_changed": "For a prefix: only pictures that are new or changed since their last success.",
        "overlap": "What happens to a run that is due while the previous run is active.",
        "catch_up_s": "Maximum age of a missed run that is made up for, in seconds; older ones are only recorded.",
        "ends_at": "No run is due after this time.",
        "supersede": "Cancels waiting jobs of the same `custom_id`; results become versions under their keys.",
    }
    for name, text in described.items():
        fields["properties"][name]["description"] = text
    return {"required": True, "content": {"application/json": {"schema": fields, "example": example}}}


async def _json(request: Request) -> bytes:
    kind = bodies.media_type(request)
    if not bodies.is_json(kind):
        raise bodies.unsupported(kind, "application/json")
    return await bodies.read_body(request, JSON_BYTES)


@router.post(
    "",
    status_code=201,
    response_model=Schedule,
    summary="Create a schedule",
    description=(
        "Each run is a batch. The workers start each run exactly once. If a change of the clocks skips a local time, "
        "its run starts once after the gap; if it occurs twice, the run starts once. Expressions with `*` as "
        "minute or hour follow elapsed time instead."
    ),
    responses=schema.problems(413, 415, 422),
    openapi_extra={"requestBody": _body(ScheduleRequest, EXAMPLE)},
)
async def create(request: Request, submission: ScheduleSubmissionOf, caller: CallerOf) -> Response:
    """Create a schedule for the caller."""
    body = await _json(request)
    schedule = await run_in_threadpool(_create, submission, caller.tenant, body)
    return answer(schedule, 201, {"Location": f"/v1/schedules/{schedule.id}"})


def _create(submission: ScheduleSubmission, tenant: str, body: bytes) -> Schedule:
    return submission.create(validated(ScheduleRequest.model_validate_json, body), tenant=tenant)


@router.get("", response_model=ScheduleList, summary="List schedules", responses=schema.problems(422))
def list_schedules(schedules: SchedulesOf, caller: CallerOf, query: Annotated[ScheduleQuery, Query()]) -> Response:
    """A page of the caller's schedules."""
    page = schedules.page(caller.tenant, limit=query.limit, cursor=query.cursor)
    return answer(ScheduleList.model_construct(data=page.data, next_cursor=page.next_cursor))


@router.get("/{schedule_id}", response_model=Schedule, summary="Read a schedule", responses=schema.problems(404))
def read(schedules: SchedulesOf, caller: CallerOf, schedule_id: ScheduleId) -> Response:
    """The schedule in its current state."""
    return answer(schedules.get(caller.tenant, schedule_id))


@router.patch(
    "/{schedule_id}",
    response_model=Schedule,
    summary="Change a schedule",
    description="Omitted fields stay unchanged; null clears a field. Active runs are not affected.",
    responses=schema.problems(404, 409, 413, 415, 422),
    openapi_extra={"requestBody": _body(ScheduleChange, {"cron": "0 4 * * 1-5"})},
)
async def change(
    request: Request, submission: ScheduleSubmissionOf, caller: CallerOf, schedule_id: ScheduleId
) -> Response:
    """Change the fields in the body."""
    body = await _json(request)
    return answer(await run_in_threadpool(_change, submission, caller.tenant, schedule_id, body))


def _change(submission: ScheduleSubmission, tenant: str, schedule_id: str, body: bytes) -> Schedule:
    return submission.change(tenant, schedule_id, validated(ScheduleChange.model_validate_json, body))


@router.delete(
    "/{schedule_id}", status_code=204, summary="Delete a schedule and its runs", responses=schema.problems(404)
)
def delete(submission: ScheduleSubmissionOf, caller: CallerOf, schedule_id: ScheduleId) -> Response:
    """Delete the schedule; its batches continue."""
    submission.delete(caller.tenant, schedule_id)
    return Response(status_code=204)


@router.post(
    "/{schedule_id}/run",
    status_code=202,
    response_model=Run,
    summary="Run a schedule now",
    description="An extra run, also while the schedule is paused. 409 if a run is active and `overlap` is `skip`.",
    responses=schema.problems(404, 409),
)
def run_now(schedules: SchedulesOf, publisher: TaskPublisherOf, caller: CallerOf, schedule_id: ScheduleId) -> Response:
    """Create a run."""
    run = schedules.run_now(caller.tenant, schedule_id)
    publisher.publish_due()
    return answer(run, 202, {"Location": f"/v1/schedules/{schedule_id}/runs/{run.id}"})


@router.post(
    "/{schedule_id}/pause", response_model=Schedule, summary="Pause a schedule", responses=schema.problems(404, 409)
)
def pause(schedules: SchedulesOf, caller: CallerOf, schedule_id: ScheduleId) -> Response:
    """Stop new runs; an active run continues."""
    return answer(schedules.pause(caller.tenant, schedule_id))


@router.post(
    "/{schedule_id}/resume", response_model=Schedule, summary="Resume a schedule", responses=schema.problems(404, 409)
)
def resume(schedules: SchedulesOf, caller: CallerOf, schedule_id: ScheduleId) -> Response:
    """Continue with the next scheduled time; runs missed during the pause are not made up for."""
    return answer(schedules.resume(caller.tenant, schedule_id))


@router.get(
    "/{schedule_id}/runs",
    response_model=RunList,
    summary="List a schedule's runs",
    description="Newest first, with their batches, counts and cost; the newest 500 are kept.",
    responses=schema.problems(404, 422),
)
def list_runs(
    runs: RunsOf, caller: CallerOf, schedule_id: ScheduleId, query: Annotated[ScheduleQuery, Query()]
) -> Response:
    """A page of runs, including skipped and missed runs."""
    page = runs.page(caller.tenant, schedule_id, limit=query.limit, cursor=query.cursor)
    return answer(RunList.model_construct(data=page.data, next_cursor=page.next_cursor))


@router.get("/{schedule_id}/runs/{run_id}", response_model=Run, summary="Read a run", responses=schema.problems(404))
def read_run(runs: RunsOf, caller: CallerOf, schedule_id: ScheduleId, run_id: str) -> Response:
    """The run in its current state."""
    if not RUN_ID.fullmatch(run_id):
        raise NotFound("no such run")
    return answer(runs.get(caller.tenant, schedule_id, run_id))
