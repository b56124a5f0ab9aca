"""What the store knows about an object, and the metadata that connects an output with its job."""

from collections.abc import Mapping
from dataclasses import dataclass

JOB = "job-id"
"""The metadata entry with the id of an output's job."""
ATTEMPT = "attempt"
"""The metadata entry with the number of the attempt that wrote an output: its fencing token."""


@dataclass(frozen=True)
class StoredObject:
    """An object without its bytes.

    Attributes:
        size: in bytes.
        media_type: its `Content-Type`.
        metadata: names in lower case.
        etag: as the store sends it, with quotes.
    """

    size: int
    media_type: str
    metadata: Mapping[str, str]
    etag: str


@dataclass(frozen=True)
class Listed:
    """An object in a listing; `etag` as the store sends it, `size` in bytes."""

    key: str
    size: int
    etag: str


def is_later(stored: StoredObject, job_id: str, attempt: int) -> bool:
    """Whether a later attempt of the same job has written this object."""
    number = stored.metadata.get(ATTEMPT, "")
    return stored.metadata.get(JOB) == job_id and number.isdecimal() and int(number) > attempt
