"""Schedules through the client: batches by the clock, and what became of each run."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import Field, ValidationError

from retouch.errors import BadAnswer
from retouch.records import Counts, Record
from retouch.transport import Transport, read_json

_PAGE = 100
OPEN_RUNS = frozenset({"due", "queued", "running"})
"""States of a run that goes on."""


class Schedule(Record):
    """A batch template with a cron expression and a time zone.

    Attributes:
        state: `active`, `paused` or `ended`.
        next_run_at: when it is due next; None where it is not active.
        runs: how its runs ended, since ever.
    """

    id: str
    name: str
    state: str
    cron: str
    timezone: str
    manifest: str | None = None
    items_count: int | None = None
    only_changed: bool = True
    overlap: str = "skip"
    catch_up_s: float = 0.0
    ends_at: datetime | None = None
    supersede: bool = False
    defaults: dict[str, Any] = Field(default_factory=dict)
    next_run_at: datetime | None = None
    next_runs: list[datetime] = Field(default_factory=list)
    current_run: str | None = None
    runs: dict[str, int] = Field(default_factory=dict)
    created_at: datetime


class Run(Record):
    """One run of a schedule; `counts` and `cost_usd` are its batch's."""

    id: str
    schedule_id: str
    state: str
    trigger: str
    scheduled_at: datetime
    batch_id: str | None = None
    reason: str | None = None
    waits_for: str | None = None
    listed: int | None = None
    unchanged: int | None = None
    counts: Counts | None = None
    cost_usd: float = 0.0
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing of it goes on any more."""
        return self.state not in OPEN_RUNS


R = TypeVar("R", bound=Record)


class Schedules:
    """The schedules of one service, as `Client.schedules`.

    Every method may raise `ProblemError` (refused), `Unreachable` (no answer) and `BadAnswer` (not Retouch's answer).
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        name: str,
        cron: str,
        *,
        manifest: str | None = None,
        items: Sequence[Mapping[str, Any]] | None = None,
        **fields: Any,
    ) -> Schedule:
        """Make a schedule.

        Args:
            name: for people.
            cron: five fields, or `@daily` and the like.
            manifest: `s3://bucket/key`, `https://…`, or `s3://bucket/prefix/` for every picture under it.
            items: rows instead of a manifest.
            fields: `timezone`, `defaults`, `overlap`, `catch_up_s`, `only_changed`, `ends_at`, `supersede`, `trial`,
                `budget_usd`, `webhook_url`, `paused`, …; those that are None are left out.
        """
        told = {"manifest": manifest, "items": list(items) if items is not None else None, **fields}
        body = {"name": name, "cron": cron, **{key: value for key, value in told.items() if value is not None}}
        return _read(Schedule, self._call("POST", "/v1/schedules", json=_plain(body)))

    def get(self, schedule_id: str) -> Schedule:
        """The schedule as it is now."""
        return _read(Schedule, self._call("GET", _path(schedule_id), repeatable=True))

    def list(self, *, limit: int | None = None) -> Iterator[Schedule]:
        """Schedules, newest first, fetched a page at a time; at most `limit` of them."""
        return (_read(Schedule, entry) for entry in self._pages("/v1/schedules", limit))

    def update(self, schedule_id: str, **fields: Any) -> Schedule:
        """Change what is given; what is None goes."""
        return _read(Schedule, self._call("PATCH", _path(schedule_id), repeatable=True, json=_plain(fields)))

    def delete(self, schedule_id: str) -> None:
        """Delete a schedule and its runs; batches that it made go on."""
        self._transport.call("DELETE", _path(schedule_id), repeatable=False)

    def pause(self, schedule_id: str) -> Schedule:
        """Let nothing more be due."""
        return _read(Schedule, self._call("POST", _path(schedule_id, "pause")))

    def resume(self, schedule_id: str) -> Schedule:
        """Go on with the next tick."""
        return _read(Schedule, self._call("POST", _path(schedule_id, "resume")))

    def run(self, schedule_id: str) -> Run:
        """Run it now, beside its ticks."""
        return _read(Run, self._call("POST", _path(schedule_id, "run")))

    def runs(self, schedule_id: str, *, limit: int | None = None) -> Iterator[Run]:
        """Its runs, the latest first, fetched a page at a time; at most `limit` of them."""
        return (_read(Run, entry) for entry in self._pages(_path(schedule_id, "runs"), limit))

    def run_of(self, schedule_id: str, run_id: str) -> Run:
        """A run as it is now."""
        return _read(Run, self._call("GET", _path(schedule_id, f"runs/{quote(run_id, safe='')}"), repeatable=True))

    def _pages(self, path: str, limit: int | None) -> Iterator[Any]:
        params: dict[str, str | int] = {}
        left = limit
        while left is None or left > 0:
            params["limit"] = _PAGE if left is None else min(_PAGE, left)
            page = self._call("GET", path, repeatable=True, params=params)
            data = page.get("data")
            if not isinstance(data, list):
                raise BadAnswer("the service answered with a list that has no `data`")
            yield from data
            cursor = page.get("next_cursor")
            if not cursor:
                return
            params["cursor"] = cursor
            left = None if left is None else left - len(data)

    def _call(self, method: str, path: str, *, repeatable: bool = False, **content: Any) -> dict[str, Any]:
        body = read_json(self._transport.call(method, path, repeatable=repeatable, **content))
        if not isinstance(body, dict):
            raise BadAnswer(f"{path} was answered with something that is not Retouch's")
        return body


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in fields.items()}


def _path(schedule_id: str, action: str = "") -> str:
    return f"/v1/schedules/{quote(schedule_id, safe='')}{'/' if action else ''}{action}"


def _read(kind: type[R], body: object) -> R:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadAnswer(f"the service's {kind.__name__.lower()} cannot be read: {where}: {first['msg']}") from error
