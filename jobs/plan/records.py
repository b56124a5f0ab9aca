"""Plain values that go into the plan and come out of it."""

from dataclasses import dataclass
from datetime import datetime

from jobs.foundation.job_states import State
from jobs.records.job_models import Checkpoint, Input, JobSpec


@dataclass(frozen=True)
class Draft:
    """A job that is ready to be written. Its spec is complete; its picture is in the bucket or has a URL."""

    job_id: str
    spec: JobSpec
    input: Input


@dataclass(frozen=True)
class Idempotency:
    """An Idempotency-Key and the request that has it, as SHA-256 (hex)."""

    key_sha256: str
    body_sha256: str


@dataclass(frozen=True)
class Submitted:
    """The jobs of a submit.

    Attributes:
        job_ids: in the order of the drafts.
        states: of these jobs, in the same order, as the submit left them; empty for a replay.
        replayed: whether an earlier submit with the same Idempotency-Key wrote these jobs.
    """

    job_ids: list[str]
    states: tuple[State, ...] = ()
    replayed: bool = False


@dataclass(frozen=True)
class Dispatch:
    """An attempt that the plan has started. It has a lease and is to be published."""

    job_id: str
    attempt: int


@dataclass(frozen=True)
class Plan:
    """The result of one call of the plan.

    Attributes:
        dispatches: the attempts that it started.
        next_in_s: seconds until the plan may start more; None: time alone starts nothing.
    """

    dispatches: list[Dispatch]
    next_in_s: float | None


@dataclass(frozen=True)
class Claim:
    """An attempt that a worker has claimed.

    Attributes:
        job_id, attempt: fence everything that the worker writes.
        tenant: the owner of the job.
        spec, input: the edit.
        checkpoint: the answer that an earlier attempt recorded, if any.
        tries: attempts used up before this one.
        deadline: when the job must have ended, if it has a deadline.
        claimed_at: time of the claim by the server's clock.
        queued_at: the time since which the plan could start it.
        sheet: whether its batch wants thumbnails for a contact sheet.
        probe: whether it checks if a parked model works again. Its failure does not count against the job.
        supersede: whether its output becomes the next version of the object under its key.
    """

    job_id: str
    attempt: int
    tenant: str
    spec: JobSpec
    input: Input
    checkpoint: Checkpoint | None
    tries: int
    deadline: datetime | None
    claimed_at: datetime
    queued_at: datetime
    sheet: bool = False
    probe: bool = False
    supersede: bool = False


@dataclass(frozen=True)
class ReuseEntry:
    """An entry of the register of finished edits, where an equal edit finds this one.

    Attributes:
        key: of the hash.
        field: of the hash.
        name: of the job, in the register's short form.
        lives_ms: how long the hash is kept after its last entry, ms.
    """

    key: str
    field: str
    name: str
    lives_ms: int
