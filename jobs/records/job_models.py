"""The records of requests, jobs, attempts and results. All are frozen."""

import re
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
)

from jobs.foundation.job_states import State
from jobs.records.output_key import check_output_key

Priority = Literal["high", "normal", "low"]
WEIGHTS: dict[str, int] = {"high": 16, "normal": 4, "low": 1}
"""A lane's weight in its tenant's share, by priority."""

MAX_METADATA = 32


class Record(BaseModel):
    """The base of all records: frozen; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


_DATE = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]")


def _rfc3339(value: object) -> object:
    # By default pydantic reads "1700000000" as seconds since 1970.
    if isinstance(value, datetime):
        return value
    if isinstance(value, str) and _DATE.match(value):
        return datetime.fromisoformat(value.upper())
    raise ValueError("use a date, `T`, a time and its offset, as in 2026-11-22T18:30:00+01:00")


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be between the years 1 and 9999 in UTC") from None


Moment = Annotated[AwareDatetime, BeforeValidator(_rfc3339), AfterValidator(_utc)]
"""A time with its offset (RFC 3339), converted to UTC."""
CustomId = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]


class EditParameters(Record):
    """The parameters of an edit. The catalogue checks their ranges, which depend on the model."""

    prompt: str | None = None
    seed: int | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    negative_prompt: str | None = None
    text_mode: bool | None = None
    size: str | None = None
    quality: str | None = None
    background: str | None = None
    output_format: str | None = None


class JobFields(EditParameters):
    """The common fields of a job, a batch's defaults and a manifest's row."""

    model: str | None = None
    priority: Priority = "normal"
    metadata: dict[str, str] = Field(default_factory=dict)
    not_before: Moment | None = None
    deadline_s: Annotated[float, Field(gt=0, le=30 * 86400)] | None = None
    output_key: str | None = None
    webhook_url: Annotated[str, StringConstraints(max_length=2048)] | None = None
    reuse: bool | None = None

    @field_validator("metadata")
    @classmethod
    def _metadata_is_small(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) > MAX_METADATA:
            raise ValueError(f"at most {MAX_METADATA} entries")
        for name, text in value.items():
            if not 0 < len(name) <= 64 or len(text) > 512:
                raise ValueError(f"entry {name[:64]!r}: names have 1 to 64 characters, values at most 512")
        return value

    @field_validator("output_key")
    @classmethod
    def _output_key_is_a_template(cls, value: str | None) -> str | None:
        if value is not None:
            check_output_key(value)
        return value


class JobRequest(JobFields):
    """A submitted edit: `POST /v1/jobs`, a batch's item or a manifest's row."""

    image: str | None = None
    custom_id: CustomId | None = None


class JobSpec(JobRequest):
    """An accepted request: model and seed are set, the picture is an address.

    Attributes:
        seed_given: the user chose the seed. An edit with another seed is then not equal.
    """

    traceparent: str | None = None
    seed_given: bool = False


class Input(Record):
    """The picture to edit. The other fields than `image` are None until the picture is read."""

    image: str
    sha256: str | None = None
    bytes: int | None = None
    media_type: str | None = None
    width: int | None = None
    height: int | None = None


class Output(Record):
    """The stored result. `url` is presigned for each answer and never stored.

    Attributes:
        reused: it was copied from an equal, earlier edit and cost nothing.
        version: number of the object under its key, from 1; greater than 1 if the batch supersedes.
        previous: the key of the previous version's object.
    """

    bucket: str
    key: str
    sha256: str
    bytes: int
    media_type: str
    width: int
    height: int
    seed: int | None = None
    reused: bool = False
    version: int = 1
    previous: str | None = None
    url: str | None = None


class JobError(Record):
    """Why a job ended without a result."""

    code: str
    message: str
    retryable: bool
    provider_status: int | None = None
    trace_id: str | None = None


Outcome = Literal[
    "succeeded",
    "filtered",
    "failed",
    "retry",
    "rate_limited",
    "parked",
    "handed_back",
    "lease_lost",
    "canceled",
]


class AttemptRecord(Record):
    """An attempt in a job's log."""

    number: int
    started_at: Moment | None = None
    finished_at: Moment | None = None
    outcome: Outcome
    message: str | None = None
    trace_id: str | None = None


class Checkpoint(Record):
    """The provider's response, recorded before the worker uses it.

    Attributes:
        kind: `url`: the provider stores the result; `kept`: the response had the bytes, which the worker puts into the
            bucket.
        url: absolute address of the result (`url`).
        bucket, key, sha256: the object for the bytes, and their hash (`kept`).
        seed: the seed that the provider used, by its response.
        at: the time of the response.
        attempt: number of the attempt that made the call.
        trace_id: the provider's id of the call.
    """

    kind: Literal["url", "kept"]
    url: str | None = None
    bucket: str | None = None
    key: str | None = None
    sha256: str | None = None
    seed: int | None = None
    at: Moment
    attempt: int
    trace_id: str | None = None


class Job(EditParameters):
    """A job as the API shows it."""

    id: str
    state: State
    tenant: str = Field(exclude=True)
    model: str
    custom_id: str | None = None
    batch_id: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    priority: Priority = "normal"
    input: Input
    output: Output | None = None
    error: JobError | None = None
    attempts: list[AttemptRecord] = Field(default_factory=list)
    cost_usd: float = 0.0
    created_at: Moment
    not_before: Moment | None = None
    deadline_s: float | None = None
    output_key: str | None = None
    webhook_url: str | None = None
    reuse: bool | None = None
    started_at: Moment | None = None
    finished_at: Moment | None = None

    def with_output_url(self, url: str) -> Self:
        """A copy of the job whose output has this URL."""
        if self.output is None:
            return self
        return self.model_copy(update={"output": self.output.model_copy(update={"url": url})})
