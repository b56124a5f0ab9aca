"""Pages of lists, the newest first: sorted sets of ids, and the cursors of their pages."""

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
    """A page of a list, and the cursor of the next page; None on the last page."""

    data: list[T]
    next_cursor: str | None


def check_limit(limit: int, maximum: int) -> None:
    """Check the size of a page.

    Raises:
        InvalidInput: naming `limit`.
    """
    if not 1 <= limit <= maximum:
        raise InvalidInput.of("limit", f"between 1 and {maximum}")


def write_cursor(last: str) -> str:
    """The cursor of the page that follows this id."""
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
        raise InvalidInput.of("cursor", "use the next_cursor of the previous page, unchanged")
    return last


def falling(redis: Redis, index: str, high: str, low: str, step: int = 100) -> Iterator[str]:
    """The members of a sorted set in descending order, read `step` at a time; bounds as for ZREVRANGEBYLEX."""
    while True:
        members: Any = redis.zrevrangebylex(index, high, low, start=0, num=step)
        yield from members
        if len(members) < step:
            return
        high = f"({members[-1]}"


def page_of_keys(redis: Redis, index: str, below: str | None, limit: int) -> tuple[list[str], bool]:
    """The next keys of a sorted set in descending order, and whether there are more."""
    keys: Any = redis.zrevrangebylex(index, f"({below}" if below else "+", "-", start=0, num=limit + 1)
    return keys[:limit], len(keys) > limit
