"""Models of schedules and runs, as they are submitted and as the API shows them."""

import hashlib
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator
from ulid import ULID

from jobs.batches.models import MAX_ITEMS, BatchDefaults, BatchOptions, Budget, Counts
from jobs.records.job_models import Moment, Priority, Record
from jobs.schedules.cron import parse_expression, parse_zone

Overlap = Literal["skip", "queue", "cancel_previous"]
CATCH_UP_S = 3600.0
MAX_CATCH_UP_S = 7 * 86_400.0

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Address = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
CatchUp = Annotated[float, Field(ge=0, le=MAX_CATCH_UP_S)]
Items = Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_ITEMS)]


class ScheduleTemplate(BatchOptions):
    """The fields of a schedule except inline items, which are in the bucket.

    Attributes:
        cron: five fields, or `@daily` and the like; see `jobs.schedules.cron`.
        timezone: IANA name of the time zone of `cron`.
        manifest: `s3://bucket/key`, `https://…`, or `s3://bucket/prefix/` for every picture under it.
        only_changed: take only those pictures of a prefix that are new or changed since their last success.
        overlap: how a run is handled that is due while an earlier one is open.
        catch_up_s: after a downtime, ticks older than this many seconds are recorded as missed.
        ends_at: no run is due after this moment.
        trial, budget_usd, webhook_url, metadata, …: of each run's batch.
    """

    name: Name
    cron: str
    timezone: str = "UTC"
    manifest: Address | None = None
    only_changed: bool = True
    overlap: Overlap = "skip"
    catch_up_s: CatchUp = CATCH_UP_S
    ends_at: Moment | None = None

    @field_validator("cron")
    @classmethod
    def _cron_fires(cls, value: str) -> str:
        return parse_expression(value)

    @field_validator("timezone")
    @classmethod
    def _zone_is_known(cls, value: str) -> str:
        parse_zone(value)
        return value

    @field_validator("not_before", "defaults")
    @classmethod
    def _starts_when_due(cls, value: object) -> object:
        if isinstance(value, datetime) or (isinstance(value, BatchDefaults) and value.not_before is not None):
            raise ValueError("not_before is not allowed: the jobs of a schedule start when their run is due")
        return value

    @property
    def is_prefix(self) -> bool:
        """Whether its source is a prefix."""
        return is_prefix(self.manifest)


class ScheduleRequest(ScheduleTemplate):
    """`POST /v1/schedules`, with items or the address of a manifest or prefix."""

    items: Items | None = None
    paused: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.items is None) == (self.manifest is None):
            raise ValueError("either items or a manifest")
        return self


class ScheduleChange(Record):
    """`PATCH /v1/schedules/{id}`: a missing field keeps its value, a null field is removed."""

    name: Name | None = None
    cron: str | None = None
    timezone: str | None = None
    items: Items | None = None
    manifest: Address | None = None
    only_changed: bool | None = None
    overlap: Overlap | None = None
    catch_up_s: CatchUp | None = None
    ends_at: Moment | None = None
    defaults: BatchDefaults | None = None
    trial: int | None = None
    trial_sample: Literal["first", "random"] | None = None
    budget_usd: Budget | None = None
    priority: Priority | None = None
    webhook_url: str | None = None
    webhook_events: list[str] | None = None
    webhook_digest_s: float | None = None
    metadata: dict[str, str] | None = None
    sheet: bool | None = None
    supersede: bool | None = None


class ScheduleState(StrEnum):
    """The state of a schedule."""

    ACTIVE = "active"
    """It fires at its next tick."""
    PAUSED = "paused"
    """It does not fire until it is resumed; ticks before then are ignored."""
    ENDED = "ended"
    """Its end date has passed."""


class RunState(StrEnum):
    """The state of a run."""

    DUE = "due"
    """Its batch is being created."""
    QUEUED = "queued"
    """It waits for the previous run."""
    RUNNING = "running"
    """Its batch has not ended."""
    COMPLETED = "completed"
    """Its batch has ended; see `counts` and `cost_usd`."""
    UNCHANGED = "unchanged"
    """No picture was new or changed: there is no batch."""
    CANCELED = "canceled"
    """Its batch was canceled, or a later run replaced it."""
    FAILED = "failed"
    """It has no batch, or its batch has no valid row; `reason` gives the reason."""
    SKIPPED = "skipped"
    """The previous run had not ended."""
    MISSED = "missed"
    """It was due during a downtime, longer ago than the catch-up window."""


FINAL_RUNS = frozenset(RunState) - {RunState.DUE, RunState.QUEUED, RunState.RUNNING}


class Run(Record):
    """One run of a schedule.

    Attributes:
        scheduled_at: its tick, or the moment of the request for a manual run.
        trigger: `cron` or `manual`.
        reason: why it is in its state, if that is not obvious.
        waits_for: why its batch is not created yet.
        listed, unchanged: pictures found under a prefix with `only_changed`, and those left out.
        counts, cost_usd: of its batch, as of now.
    """

    id: str
    schedule_id: str
    schedule_name: str | None = None
    state: RunState
    trigger: Literal["cron", "manual"]
    scheduled_at: Moment
    batch_id: str | None = None
    reason: str | None = None
    waits_for: str | None = None
    listed: int | None = None
    unchanged: int | None = None
    counts: Counts | None = None
    cost_usd: float = 0.0
    started_at: Moment | None = None
    finished_at: Moment | None = None


class RunTotals(Record):
    """The number of a schedule's runs in each final state."""

    completed: int = 0
    unchanged: int = 0
    canceled: int = 0
    failed: int = 0
    skipped: int = 0
    missed: int = 0


class Schedule(Record):
    """A schedule as the API shows it.

    Attributes:
        items_count: number of inline items; None if its source is a manifest or a prefix.
        next_run_at: its next tick; None if it is not active.
        next_runs: its next few ticks.
        current_run: id of the open run.
    """

    id: str
    tenant: str = Field(exclude=True)
    name: str
    state: ScheduleState
    cron: str
    timezone: str
    manifest: str | None = None
    items_count: int | None = None
    only_changed: bool
    overlap: Overlap
    catch_up_s: float
    ends_at: Moment | None = None
    supersede: bool = False
    defaults: dict[str, Any] = Field(default_factory=dict)
    trial: int | None = None
    trial_sample: Literal["first", "random"] | None = None
    budget_usd: float | None = None
    priority: Priority | None = None
    webhook_url: str | None = None
    webhook_events: list[str] | None = None
    webhook_digest_s: float | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    sheet: bool = False
    next_run_at: Moment | None = None
    next_runs: list[Moment] = Field(default_factory=list)
    current_run: str | None = None
    runs: RunTotals = RunTotals()
    created_at: Moment


def is_prefix(manifest: str | None) -> bool:
    """Whether an address means every picture under it: it ends with `/`, or names only a bucket."""
    if manifest is None or not manifest.startswith("s3://"):
        return False
    _, slash, key = manifest[5:].partition("/")
    return not slash or not key or key.endswith("/")


def run_id(schedule_id: str, tick_ms: int, *, manual: bool = False) -> str:
    """The id of the run of a tick; every process derives the same one."""
    return f"run_{schedule_id.removeprefix('sch_')}-{tick_ms:013d}{'m' * manual}"


def batch_id_of(run: str, made_ms: int) -> str:
    """The id of a run's batch; every process derives the same one from the run's record."""
    return f"bat_{ULID.from_bytes(made_ms.to_bytes(6, 'big') + hashlib.sha256(run.encode()).digest()[:10])}"
