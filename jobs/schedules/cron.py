"""Cron expressions in time zones. Pure: the caller passes the time.

cronsim reads expressions as Debian's cron does (https://manpages.debian.org/cron, "Local time changes"), and so do we:

- An expression that names its minutes and hours (`30 2 * * *`) follows the local time. When the clocks change, a time
  that does not exist fires once, in the first minute after the gap. A time that exists twice fires only the first time.
- An expression with a minute or hour that begins with `*` (`0 * * * *`, `*/15 9-17 * * *`) follows the elapsed time: a
  time that does not exist does not fire, and a time that exists twice fires twice, an hour apart.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
MAX_CHARACTERS = 128
_FIELD = re.compile(r"[0-9A-Z*/,#-]+", re.IGNORECASE)
_ZONE = re.compile(r"[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}")
_SOME_DAY = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Cron:
    """A cron expression in a time zone; created by `parse`.

    Attributes:
        expression: five fields.
        zone: its time zone.
    """

    expression: str
    zone: ZoneInfo

    @classmethod
    def parse(cls, expression: str, timezone: str) -> "Cron":
        """Parse an expression of five fields, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.

        Raises:
            BadCron: it is invalid, or no moment matches it.
            BadZone: there is no such time zone.
        """
        return cls(parse_expression(expression), parse_zone(timezone))

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Its ticks after `moment`, in UTC, ascending."""
        last = moment.astimezone(UTC)
        # For a time that exists twice, cronsim returns the first one, which may be before `moment`.
        for local in CronSim(self.expression, last.astimezone(self.zone)):
            tick = local.astimezone(UTC)
            if tick > last:
                last = tick
                yield tick

    def next_after(self, moment: datetime) -> datetime | None:
        """Its first tick after `moment`; None if there is none within fifty years."""
        return next(self.after(moment), None)

    def some_after(self, moment: datetime, limit: int) -> list[datetime]:
        """Its first `limit` ticks after `moment`."""
        return list(islice(self.after(moment), limit))


class BadCron(ValueError):
    """An invalid cron expression, or one that never fires."""


class BadZone(ValueError):
    """An unknown time zone."""


def parse_expression(text: str) -> str:
    """The five fields of an expression.

    Raises:
        BadCron: it is invalid, or no moment matches it; the message names the fault.
    """
    expression = NAMED.get(text.strip().lower(), text.strip())
    fields = expression.split()
    if len(text) > MAX_CHARACTERS:
        raise BadCron(f"at most {MAX_CHARACTERS} characters")
    if len(fields) != 5:
        raise BadCron("five fields: minute, hour, day of the month, month, day of the week; or @daily and the like")
    for field in fields:
        if not _FIELD.fullmatch(field):
            raise BadCron(f"{field!r} is not a field of a cron expression")
    try:
        first = next(CronSim(expression, _SOME_DAY), None)
    except CronSimError as error:
        raise BadCron(f"{str(error).lower()} in {expression!r}") from error
    except (ValueError, TypeError, AssertionError) as error:
        raise BadCron(f"{expression!r} cannot be read") from error
    if first is None:
        raise BadCron(f"no moment within fifty years matches {expression!r}")
    return " ".join(fields)


def parse_zone(name: str) -> ZoneInfo:
    """The time zone of an IANA name, as Europe/Berlin.

    Raises:
        BadZone: the name is unknown.
    """
    try:
        # Files such as `localtime` belong to this machine and are not IANA names.
        if _ZONE.fullmatch(name) and len(name) <= 64:
            return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise BadZone(f"there is no time zone {name!r}: an IANA name, as Europe/Berlin or UTC") from error
    raise BadZone(f"{name[:64]!r} is not a time zone: an IANA name, as Europe/Berlin or UTC")
