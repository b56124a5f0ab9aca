"""Models of a batch, as it is submitted and as the API shows it."""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationInfo, field_validator, model_validator

from jobs.events.outbox import wants_jobs
from jobs.foundation.job_states import State
from jobs.records.job_models import EditParameters, JobFields, Moment, Priority, Record

MAX_ITEMS = 10_000
"""Items of one request; a larger batch needs a manifest."""
MAX_TRIAL = 10_000


class BatchState(StrEnum):
    """The state of a batch."""

    INGESTING = "ingesting"
    """Its manifest is being read; its first jobs may be running."""
    RUNNING = "running"
    """Its jobs are on their lanes or running."""
    AWAITING_APPROVAL = "awaiting_approval"
    """Its trial has ended; the rest waits for `approve` or `cancel`."""
    PAUSED = "paused"
    """None of its jobs starts; `reason` gives the reason."""
    COMPLETED = "completed"
    """Every job has ended."""
    CANCELED = "canceled"
    """The user canceled it."""
    FAILED = "failed"
    """Its manifest has no valid row; `reason` gives the reason."""


ENDED = frozenset({BatchState.COMPLETED, BatchState.CANCELED, BatchState.FAILED})
RETRIABLE = (State.FAILED, State.FILTERED, State.CANCELED)
COUNTED = (*(str(state) for state in State), "rejected", "reused")
"""The fields of a batch's record that count its rows."""

Budget = Annotated[float, Field(gt=0, le=1_000_000)]


class BatchDefaults(JobFields):
    """Values of the fields that an item does not set."""

    image: str | None = None


class BatchOptions(Record):
    """The options of a batch.

    Attributes:
        trial: number of items to edit first; the others wait for `approve`.
        trial_sample: whether the trial has the first items or random ones.
        budget_usd: the batch pauses before its cost exceeds this.
        priority, not_before: of items, unless they or the defaults set their own.
        webhook_url: receives the batch's events, and its jobs' events if `webhook_events` names them.
        webhook_digest_s: job events are delivered together, at most once in this many seconds.
        metadata: of the batch itself.
        sheet: whether a contact sheet is written.
        supersede: waiting jobs of earlier batches with the same `custom_id` are canceled, and an existing result at the
            same key is kept as the previous version.
    """

    name: Annotated[str, StringConstraints(max_length=200)] | None = None
    defaults: BatchDefaults = BatchDefaults()
    trial: Annotated[int, Field(ge=1, le=MAX_TRIAL)] | None = None
    trial_sample: Literal["first", "random"] = "first"
    budget_usd: Budget | None = None
    priority: Priority | None = None
    not_before: Moment | None = None
    webhook_url: Annotated[str, StringConstraints(max_length=2048)] | None = None
    webhook_events: list[str] | None = None
    webhook_digest_s: Annotated[float, Field(ge=1, le=3600)] | None = None
    metadata: dict[str, str] = Field(default_factory=dict, max_length=32)
    sheet: bool = False
    supersede: bool = False

    @field_validator("webhook_digest_s")
    @classmethod
    def _digest_has_events(cls, value: float | None, info: ValidationInfo) -> float | None:
        # Invalid filters are missing from `info.data`; they are reported under their own name.
        if value is not None and "webhook_events" in info.data and not wants_jobs(info.data["webhook_events"] or ()):
            raise ValueError("it collects job events: webhook_events must name some, such as 'job.*'")
        return value


class BatchRequest(BatchOptions):
    """`POST /v1/batches` as JSON, with items or the address of a manifest."""

    items: list[dict[str, Any]] | None = None
    manifest: Annotated[str, StringConstraints(min_length=1, max_length=2048)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.items is None) == (self.manifest is None):
            raise ValueError("either items or a manifest")
        if self.items is not None and not 0 < len(self.items) <= MAX_ITEMS:
            raise ValueError(f"1 to {MAX_ITEMS:,} items; send more as a manifest")
        return self


class Changes(EditParameters):
    """Changes by `approve`; they override the rows of all items that were not edited yet."""


class Counts(Record):
    """The number of items in each state. `total` counts every row that was read, rejects included."""

    total: int = 0
    queued: int = 0
    waiting: int = 0
    running: int = 0
    succeeded: int = 0
    filtered: int = 0
    failed: int = 0
    canceled: int = 0
    rejected: int = 0
    reused: int = 0


class SavedResults(Record):
    """Addresses (`s3://…`) of the saved results of an ended batch; `sheet` is the first page."""

    jsonl: str
    csv: str
    rejects: str | None = None
    sheet: str | None = None
    sheet_pages: int = 0


class Rollback(Record):
    """The rollback of a batch's output keys to their previous versions.

    Attributes:
        state: `running` or `completed`.
        restored: keys that have their previous version again.
        unversioned: keys without a previous version; unchanged.
        overtaken: keys that a later edit has written; unchanged.
        lost: keys whose previous version is not in the bucket; unchanged.
    """

    state: Literal["running", "completed"]
    restored: int = 0
    unversioned: int = 0
    overtaken: int = 0
    lost: int = 0


class Batch(Record):
    """A batch as the API shows it.

    Attributes:
        reason: why it is paused or failed.
        progress: the fraction of its items that has ended, 0 to 1.
        eta_s: seconds until its open jobs end at the current rate.
        cost_usd: cost of its edits, including calls of unknown outcome.
        estimated_cost_usd: its final cost if all open jobs succeed.
        waits_for: why the ingest waits, for example a quota.
        fault: why the manifest could not be read to its end.
        retrying: whether a retry is still queueing jobs.
        results: addresses of its results after they were written.
        superseded: number of jobs of earlier batches that this batch canceled.
        schedule_id, run_id: the run that created it, if a schedule did.
        rollback: progress of its rollback.
    """

    id: str
    name: str | None = None
    tenant: str = Field(exclude=True)
    state: BatchState
    reason: str | None = None
    counts: Counts
    progress: float
    eta_s: float | None = None
    rate_per_s: float | None = None
    cost_usd: float = 0.0
    estimated_cost_usd: float | None = None
    budget_usd: float | None = None
    defaults: dict[str, Any] = Field(default_factory=dict)
    changes: dict[str, Any] | None = None
    trial: int | None = None
    trial_sample: Literal["first", "random"] | None = None
    trial_rows: int | None = None
    manifest: str | None = None
    ingested: bool = False
    waits_for: str | None = None
    fault: str | None = None
    retrying: bool = False
    metadata: dict[str, str] = Field(default_factory=dict)
    webhook_url: str | None = None
    sheet: bool = False
    supersede: bool = False
    superseded: int = 0
    schedule_id: str | None = None
    run_id: str | None = None
    rollback: Rollback | None = None
    results: SavedResults | None = None
    created_at: Moment
    ingested_at: Moment | None = None
    trial_ended_at: Moment | None = None
    approved_at: Moment | None = None
    finished_at: Moment | None = None
    results_at: Moment | None = None


class Reject(Record):
    """An invalid row.

    Attributes:
        row: its number, from 1.
        line: its first line in the manifest, from 1.
        errors: each broken rule: `field`, `message`, `code`.
    """

    row: int
    line: int
    custom_id: str | None = None
    errors: list[dict[str, str]]
