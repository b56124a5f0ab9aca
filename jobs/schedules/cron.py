"""When a schedule is due: cron expressions over time zones. Pure: every moment is given, none is asked for.

cronsim reads expressions as Debian's cron does (https://manpages.debian.org/cron, "Local time changes"), and so do we:

- An expression that names its minutes and hours (`30 2 * * *`) means the clock on the wall. A time that a change of the
  clocks leaves out fires once, in the first minute after the gap. One that comes twice fires once, the first time.
- One whose minute or hour begins with `*` (`0 * * * *`, `*/15 9-17 * * *`) follows time as it passes: nothing fires
  for what is left out, and what comes twice fires twice, an hour apart.
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
    """A cron expression in a time zone. Make one by `parse`.

    Attributes:
        expression: five fields.
        zone: whose clock it means.
    """

    expression: str
    zone: ZoneInfo

    @classmethod
    def parse(cls, expression: str, timezone: str) -> "Cron":
        """Read an expression of five fields, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.

        Raises:
            BadCron: it is none, or no moment fits it.
            BadZone: there is no such time zone.
        """
        return cls(parse_expression(expression), parse_zone(timezone))

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The moments when it is due, all later than `moment`, in UTC, rising; they end where nothing fits any more."""
        last = moment.astimezone(UTC)
        # Of a time that comes twice, cronsim gives the first one wherever it begins: that may lie before `moment`.
        for local in CronSim(self.expression, last.astimezone(self.zone)):
            found = local.astimezone(UTC)
            if found > last:
                last = found
                yield found

    def next_after(self, moment: datetime) -> datetime | None:
        """The first moment after `moment` when it is due; None where there is none within fifty years."""
        return next(self.after(moment), None)

    def some_after(self, moment: datetime, most: int) -> list[datetime]:
        """The first `most` moments after `moment`."""
        return list(islice(self.after(moment), most))


class BadCron(ValueError):
    """No cron expression that fires."""


class BadZone(ValueError):
    """No time zone."""


def parse_expression(text: str) -> str:
    """The five fields of an expression.

    Raises:
        BadCron: saying what is wrong.
    """
    expression = NAMED.get(text.strip().lower(), text.strip())
    fields = expression.split()
    if len(text) > MAX_CHARACTERS:
        raise BadCron(f"at most {MAX_CHARACTERS} characters")
    if len(fields) != 5:
        raise BadCron("five fields: minute, hour, day of the month, month, day of the week; or @daily and the like")
    for field in fields:
        if not _FIELD.fullmatch(field):
            raise BadCron(f"{field!r} is no field of a cron expression")
    try:
        found = next(CronSim(expression, _SOME_DAY), None)
    except CronSimError as error:
        raise BadCron(f"{str(error).lower()} in {expression!r}") from error
    except (ValueError, TypeError, AssertionError) as error:
        raise BadCron(f"{expression!r} cannot be read") from error
    if found is None:
        raise BadCron(f"no moment within fifty years fits {expression!r}")
    return " ".join(fields)


def parse_zone(name: str) -> ZoneInfo:
    """The time zone of an IANA name, as Europe/Berlin.

    Raises:
        BadZone: there is none of that name.
    """
    try:
        # Files such as `localtime` are this machine's own, and no names of IANA's.
        if _ZONE.fullmatch(name) and len(name) <= 64:
            return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise BadZone(f"there is no time zone {name!r}: an IANA name, as Europe/Berlin or UTC") from error
    raise BadZone(f"{name[:64]!r} is no time zone: an IANA name, as Europe/Berlin or UTC")
