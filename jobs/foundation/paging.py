"""Lists that are told a page at a time, the newest first: sorted sets of ids, and the cursor that goes on in one."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from redis import Redis

from jobs.foundation.errors import InvalidInput

AFTER_ALL = "\xff"
"""Sorts after every id."""

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list, and where the next part begins (None: that was all)."""

    data: list[T]
    next_cursor: str | None


def check_limit(limit: int, most: int) -> None:
    """Raise InvalidInput, naming `limit`, where a page may not have so many."""
    if not 1 <= limit <= most:
        raise InvalidInput.of("limit", f"between 1 and {most}")


def write_cursor(last: str) -> str:
    """What asks for the page after the one that ends with this id."""
    return urlsafe_b64encode(last.encode()).decode().rstrip("=")


def read_cursor(text: str, form: str) -> str:
    """The id in a cursor of a list whose ids all match `form`, a regular expression.

    Raises:
        InvalidInput: naming `cursor`.
    """
    try:
        last = urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except ValueError:
        last = ""
    if not re.fullmatch(form, last):
        raise InvalidInput.of("cursor", "use the next_cursor of the page before, unchanged")
    return last


def falling(redis: Redis, index: str, high: str, low: str, step: int = 100) -> Iterator[str]:
    """Members of a sorted set from one bound down to another (as ZREVRANGEBYLEX takes them), read `step` at a time."""
    while True:
        members: Any = redis.zrevrangebylex(index, high, low, start=0, num=step)
        yield from members
        if len(members) < step:
            return
        high = f"({members[-1]}"


def page_of_keys(redis: Redis, index: str, below: str | None, limit: int) -> tuple[list[str], bool]:
    """The next keys of a sorted set in falling order, and whether there are more."""
    keys: Any = redis.zrevrangebylex(index, f"({below}" if below else "+", "-", start=0, num=limit + 1)
    return keys[:limit], len(keys) > limit
