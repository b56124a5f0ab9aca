"""What goes into the plan and what comes out of it: plain values."""

from dataclasses import dataclass
from datetime import datetime

from jobs.foundation.job_states import State
from jobs.records.job_models import Checkpoint, Input, JobSpec


@dataclass(frozen=True)
class Draft:
    """A job that is ready to be written: its spec is resolved, its picture kept or an address."""

    job_id: str
    spec: JobSpec
    input: Input


@dataclass(frozen=True)
class Idempotency:
    """An Idempotency-Key and the SHA-256 (hex) of what came with it."""

    key_sha256: str
    body_sha256: str


@dataclass(frozen=True)
class Submitted:
    """The jobs of a submit.

    Attributes:
        job_ids: in the order of the drafts.
        states: of these jobs, in the same order, as the submit left them; empty for a replay.
        replayed: whether they are those of an earlier submit with the same Idempotency-Key.
    """

    job_ids: list[str]
    states: tuple[State, ...] = ()
    replayed: bool = False


@dataclass(frozen=True)
class Dispatch:
    """A job the plan has started: an attempt with a lease, to be published."""

    job_id: str
    attempt: int


@dataclass(frozen=True)
class Plan:
    """What a call of the plan started, and in how many seconds there may be more to do.

    None for the latter means: not by the clock alone.
    """

    dispatches: list[Dispatch]
    next_in_s: float | None


@dataclass(frozen=True)
class Claim:
    """An attempt a worker holds.

    Attributes:
        job_id, attempt: the fence of everything it writes.
        tenant: whose job it is.
        spec, input: what to edit, and how.
        checkpoint: the answer an earlier attempt recorded, if it did.
        tries: attempts used up before this one.
        deadline: when the job must have ended, if it must.
        claimed_at: by the server's clock.
        queued_at: since when it could have been started.
        sheet: whether its batch wants thumbnails for a contact sheet.
        probe: whether it is to find out if a parked model is back: that it fails is not the job's fault.
        supersede: whether its output is the next version of what lies under its key.
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
