"""Ids. They sort by the time of their creation, and a batch's jobs sort by their row.

A single job is `job_` and a ULID (26 characters of Crockford's base 32, https://github.com/ulid/spec).
A batch's job is `job_`, the batch's ULID, `-` and its row in seven digits: the id of a row does not depend on
the process that created it, so a manifest that is read twice creates the same jobs.
"""

from datetime import UTC, datetime

from ulid import ULID

MAX_ROWS = 10_000_000


def new_job_id() -> str:
    """An id for a single job."""
    return f"job_{ULID()}"


def new_batch_id() -> str:
    """An id for a batch."""
    return f"bat_{ULID()}"


def batch_job_id(batch_id: str, row: int) -> str:
    """The id of the job of a batch's row, counted from 1."""
    return f"job_{batch_id.removeprefix('bat_')}-{row:07d}"


def batch_job_prefix(batch_id: str) -> str:
    """The prefix of the ids of a batch's jobs. No other id has it."""
    return f"job_{batch_id.removeprefix('bat_')}-"


def batch_of(job_id: str) -> str | None:
    """The id of a job's batch; None for a single job."""
    ulid, dash, _ = job_id.removeprefix("job_").partition("-")
    return f"bat_{ulid}" if dash else None


def row_of(job_id: str) -> int | None:
    """The number of a job's row in its batch, from 1; None for a single job."""
    _, dash, row = job_id.partition("-")
    return int(row) if dash else None


def new_id(kind: str) -> str:
    """An id for any other record: `kind`, `_`, a ULID."""
    return f"{kind}_{ULID()}"


def made_at(thing_id: str) -> datetime:
    """The time at which an id was created, to the millisecond, in UTC. All jobs of a batch have the batch's time."""
    return ULID.from_str(thing_id.partition("_")[2][:26]).datetime.astimezone(UTC)
