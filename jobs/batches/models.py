"""What a batch is, as it is submitted and as the API shows it."""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationInfo, field_validator, model_validator

from jobs.events.outbox import wants_jobs
from jobs.foundation.job_states import State
from jobs.records.job_models import EditParameters, JobFields, Moment, Priority, Record

MAX_ITEMS = 10_000
"""Most items of one request; more come as a manifest."""
MAX_TRIAL = 10_000


class BatchState(StrEnum):
    """Where a batch is."""

    INGESTING = "ingesting"
    """Its manifest is being read; its first jobs may run already."""
    RUNNING = "running"
    """Its jobs are on their lanes, or being edited."""
    AWAITING_APPROVAL = "awaiting_approval"
    """Its trial has ended; the rest waits for `approve` or `cancel`."""
    PAUSED = "paused"
    """Nothing more of it starts; `reason` says why."""
    COMPLETED = "completed"
    """Every job has ended."""
    CANCELED = "canceled"
    """The user stopped it."""
    FAILED = "failed"
    """Its manifest has no row that can be edited; `reason` says why."""


ENDED = frozenset({BatchState.COMPLETED, BatchState.CANCELED, BatchState.FAILED})
RETRIABLE = (State.FAILED, State.FILTERED, State.CANCELED)
COUNTED = (*(str(state) for state in State), "rejected", "reused")
"""The fields of a batch's record that count its rows."""

Budget = Annotated[float, Field(gt=0, le=1_000_000)]


class BatchDefaults(JobFields):
    """What all items share unless they say otherwise."""

    image: str | None = None


class BatchOptions(Record):
    """What a batch may be told beside its items.

    Attributes:
        trial: so many items are edited first; the rest waits for `approve`.
        trial_sample: the first ones, or ones chosen at random.
        budget_usd: the batch pauses before it costs more.
        priority, not_before: of its items, unless they or the defaults say otherwise.
        webhook_url: told of the batch's events, and of its jobs' where `webhook_events` asks for them.
        webhook_digest_s: job events are told together, at most once in so many seconds.
        metadata: the batch's own.
        sheet: whether the workers make thumbnails for a contact sheet.
        supersede: jobs of earlier batches that wait under the same `custom_id` are canceled, and a result that is there
            already under the same key is kept aside as the version before.
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
        # Filters that are wrong themselves are not there, and are told of by their own name.
        if value is not None and "webhook_events" in info.data and not wants_jobs(info.data["webhook_events"] or ()):
            raise ValueError("it collects the events of jobs: let webhook_events name them too, such as 'job.*'")
        return value


class BatchRequest(BatchOptions):
    """`POST /v1/batches` as JSON: items, or the address of a manifest."""

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
    """What `approve` may change for all that was not edited yet, whatever their rows say."""


class Counts(Record):
    """How many items there are in each state. `total` counts every row that was read, refused ones too."""

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
    """Where an ended batch's record lies in the bucket: `s3://` addresses; `sheet` names its first page."""

    jsonl: str
    csv: str
    rejects: str | None = None
    sheet: str | None = None
    sheet_pages: int = 0


class Rollback(Record):
    """Pointing a batch's output keys back to the versions before.

    Attributes:
        state: `running` or `completed`.
        restored: keys that hold the version before again.
        unversioned: outputs before which there was nothing, which stay.
        overtaken: keys that a later edit has written since, which stay.
        lost: keys whose version before is not in the bucket any more, which stay.
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
        progress: the part of its items that has ended, 0 to 1.
        eta_s: seconds until the last one ends, at the present rate; of the rest, while approval is awaited.
        cost_usd: what its edits cost, calls of unknown outcome included.
        estimated_cost_usd: what all of it will have cost if everything that is open succeeds.
        waits_for: what keeps the manifest from being read further, a quota say.
        fault: why a manifest could not be read to its end.
        retrying: whether jobs are still being put back on their lanes after a retry.
        results: where its results lie, once they were written.
        superseded: jobs of earlier batches that were canceled because this one edits them anew.
        schedule_id, run_id: what made it, where a schedule did.
        rollback: how far pointing its output keys back to the versions before has come.
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
    """A row that was refused.

    Attributes:
        row: its place among the rows, from 1.
        line: its first line in the manifest, from 1.
        errors: each broken rule: `field`, `message`, `code`.
    """

    row: int
    line: int
    custom_id: str | None = None
    errors: list[dict[str, str]]
