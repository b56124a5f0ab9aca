"""Names of things. They sort by the moment of their making, and a batch's jobs sort by their row.

A single job is `job_` and a ULID (26 characters of Crockford's base 32, https://github.com/ulid/spec).
A batch's job is `job_`, the batch's ULID, `-` and its row in seven digits: the id of a row never depends on
which process made it, so a manifest that is read twice makes the same jobs.
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
    """The id of the job made from a batch's row, counted from 1."""
    return f"job_{batch_id.removeprefix('bat_')}-{row:07d}"


def batch_job_prefix(batch_id: str) -> str:
    """What the ids of all of a batch's jobs begin with, and no other id does."""
    return f"job_{batch_id.removeprefix('bat_')}-"


def batch_of(job_id: str) -> str | None:
    """The batch a job belongs to, or None for a single one."""
    ulid, dash, _ = job_id.removeprefix("job_").partition("-")
    return f"bat_{ulid}" if dash else None


def row_of(job_id: str) -> int | None:
    """The row of its batch a job was made from, or None for a single one."""
    _, dash, row = job_id.partition("-")
    return int(row) if dash else None


def new_id(kind: str) -> str:
    """An id for anything else: `kind`, `_`, a ULID."""
    return f"{kind}_{ULID()}"


def made_at(thing_id: str) -> datetime:
    """The moment an id was made, to the millisecond, in UTC; a batch's jobs all have their batch's."""
    return ULID.from_str(thing_id.partition("_")[2][:26]).datetime.astimezone(UTC)
