"""The objects of the HTTP API as frozen records. Unknown fields of a newer service are kept."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

State = Literal["queued", "waiting", "running", "succeeded", "filtered", "failed", "canceled"]
STATES: tuple[State, ...] = ("queued", "waiting", "running", "succeeded", "filtered", "failed", "canceled")
FINAL: frozenset[State] = frozenset({"succeeded", "filtered", "failed", "canceled"})
Priority = Literal["high", "normal", "low"]


class Record(BaseModel):
    """The base class of every record."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Input(Record):
    """The image to edit; `width` and `height` in pixels."""

    image: str
    sha256: str | None = None
    bytes: int | None = None
    media_type: str | None = None
    width: int | None = None
    height: int | None = None


class Output(Record):
    """The stored result; `url` is presigned and expires after a time that the operator sets."""

    url: str | None = None
    bucket: str
    key: str
    sha256: str
    bytes: int
    media_type: str
    width: int
    height: int
    seed: int | None = None
    reused: bool = False


class JobError(Record):
    """Why a job ended without a result, and whether a retry can help."""

    code: str
    message: str
    retryable: bool = False
    provider_status: int | None = None
    trace_id: str | None = None


class Attempt(Record):
    """One try of a job."""

    number: int
    started_at: datetime | None = None
    finished_at: datetime | None = None
    outcome: str
    message: str | None = None
    trace_id: str | None = None


class Job(Record):
    """One edit of one image. Timestamps have a UTC offset; `cost_usd` is in US dollars."""

    id: str
    state: State
    model: str
    prompt: str | None = None
    seed: int | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    negative_prompt: str | None = None
    text_mode: bool | None = None
    size: str | None = None
    custom_id: str | None = None
    batch_id: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    priority: str = "normal"
    input: Input
    output: Output | None = None
    error: JobError | None = None
    attempts: list[Attempt] = Field(default_factory=list)
    cost_usd: float = 0.0
    created_at: datetime
    not_before: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    warnings: list[str] = Field(default_factory=list)
    """After a submit: parameters that were accepted and have no effect."""

    @property
    def final(self) -> bool:
        """Whether the job has ended: only a retry by the user changes its state."""
        return self.state in FINAL

    @property
    def took_s(self) -> float | None:
        """Seconds from submit to end; None before the end."""
        return (self.finished_at - self.created_at).total_seconds() if self.finished_at else None


BATCH_ENDED: frozenset[str] = frozenset({"completed", "canceled", "failed"})


class Counts(Record):
    """How many items of a batch are in each state; `total` counts every row that was read."""

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

    @property
    def ended(self) -> int:
        """Items that have ended, including rejected rows."""
        return self.total - self.queued - self.waiting - self.running

    @property
    def without_result(self) -> int:
        """Items that ended without an image, including rejected rows."""
        return self.filtered + self.failed + self.canceled + self.rejected


class Batch(Record):
    """Jobs that were submitted together. `eta_s` is in seconds, amounts named `…_usd` in US dollars.

    Attributes:
        state: `ingesting`, `running`, `awaiting_approval`, `paused`, `completed`, `canceled` or `failed`.
        reason: why the batch is paused or failed.
        progress: the fraction of items that have ended, 0 to 1.
        results: `s3://` URLs of the results files in the bucket; None before they are written.
    """

    id: str
    name: str | None = None
    state: str
    reason: str | None = None
    counts: Counts
    progress: float = 0.0
    eta_s: float | None = None
    rate_per_s: float | None = None
    cost_usd: float = 0.0
    estimated_cost_usd: float | None = None
    budget_usd: float | None = None
    trial: int | None = None
    sheet: bool = False
    ingested: bool = False
    retrying: bool = False
    waits_for: str | None = None
    fault: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    results: dict[str, Any] | None = None
    rollback: dict[str, Any] | None = None
    created_at: datetime
    finished_at: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether the batch has ended: only a retry by the user starts jobs again."""
        return self.state in BATCH_ENDED

    @property
    def needs_decision(self) -> bool:
        """Whether the batch continues only after the user approves or resumes it."""
        return self.state in {"awaiting_approval", "paused"}


class Upload(Record):
    """A reserved object in the bucket: PUT the bytes to `url` with `headers`, then submit `image`."""

    url: str
    headers: dict[str, str] = Field(default_factory=dict)
    image: str


class ModelLimits(Record):
    """A model's limits in the catalogue; `rpm` is starts per minute, 0 = no limit."""

    concurrency: int
    rpm: float


class Model(Record):
    """A named edit model, its limits and its current state.

    Attributes:
        window: current limit of jobs in flight.
        pace_rpm: current limit of starts per minute; 0 = no limit.
        in_flight, queued, waiting: numbers of the model's jobs.
        parked: whether the model is paused because its account or endpoint has a fault; see `parked_reason`.
        price_usd: price of one image.
    """

    name: str
    dialect: str
    limits: ModelLimits
    parameters: dict[str, Any] = Field(default_factory=dict)
    price_usd: float = 0.0
    window: int
    pace_rpm: float
    in_flight: int
    queued: int
    waiting: int
    parked: bool
    parked_reason: str | None = None
    parked_until: datetime | None = None
