"""Conversions between stored values and Python's: moments in milliseconds, and the lists that scripts return."""

from collections.abc import Iterable
from datetime import UTC, datetime


def moment(ms: float | str) -> datetime:
    """Convert milliseconds since 1970 to a datetime in UTC."""
    return datetime.fromtimestamp(float(ms) / 1000, UTC)


def to_ms(at: datetime) -> int:
    """Convert a datetime to whole milliseconds since 1970."""
    return round(at.timestamp() * 1000)


def pairs(flat: Iterable[str]) -> dict[str, str]:
    """Convert the flat list of fields and values that a script returns to a mapping."""
    items = iter(flat)
    return dict(zip(items, items, strict=True))
