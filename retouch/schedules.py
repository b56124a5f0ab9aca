"""The client's calls for schedules and their runs."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from pydantic import Field

from retouch.records import Counts, Record
from retouch.transport import Transport, read_record

OPEN_RUNS = frozenset({"due", "queued", "running"})
"""States of a run that has not ended."""


class Schedule(Record):
    """A batch template with a cron expression and a time zone.

    Attributes:
        state: `active`, `paused` or `ended`.
        next_run_at: the time of the next run; None if the schedule is not active.
        runs: numbers of all runs by their state.
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
        """Whether the run has ended."""
        return self.state not in OPEN_RUNS


class Schedules:
    """The schedules of one service; use it as `Client.schedules`.

    Every method can raise `ProblemError` (refused), `Unreachable` (no answer) and `BadAnswer` (not from Retouch).
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
        """Create a schedule.

        Args:
            name: a display name.
            cron: a cron expression with five fields, or a shortcut such as `@daily`.
            manifest: `s3://bucket/key`, `https://…`, or `s3://bucket/prefix/` for every image under the prefix.
            items: rows instead of a manifest.
            fields: `timezone`, `defaults`, `overlap`, `catch_up_s`, `only_changed`, `ends_at`, `supersede`, `trial`,
                `budget_usd`, `webhook_url`, `paused`, …; None means the service's default.
        """
        optional = {"manifest": manifest, "items": list(items) if items is not None else None, **fields}
        body = {"name": name, "cron": cron, **{key: value for key, value in optional.items() if value is not None}}
        return read_record(Schedule, self._call("POST", "/v1/schedules", json=_without_datetimes(body)))

    def get(self, schedule_id: str) -> Schedule:
        """The current state of a schedule."""
        return read_record(Schedule, self._call("GET", _path(schedule_id), repeatable=True))

    def list(self, *, limit: int | None = None) -> Iterator[Schedule]:
        """Schedules, newest first, at most `limit` of them. Each page is requested when it is needed."""
        return (read_record(Schedule, entry) for entry in self._transport.list_pages("/v1/schedules", limit=limit))

    def update(self, schedule_id: str, **fields: Any) -> Schedule:
        """Change the passed fields; None removes a field's value."""
        return read_record(
            Schedule, self._call("PATCH", _path(schedule_id), repeatable=True, json=_without_datetimes(fields))
        )

    def delete(self, schedule_id: str) -> None:
        """Delete a schedule and its runs. Batches that the runs created continue."""
        self._transport.call("DELETE", _path(schedule_id), repeatable=False)

    def pause(self, schedule_id: str) -> Schedule:
        """Start no more runs. Runs that have started continue."""
        return read_record(Schedule, self._call("POST", _path(schedule_id, "pause")))

    def resume(self, schedule_id: str) -> Schedule:
        """Continue with the next scheduled time."""
        return read_record(Schedule, self._call("POST", _path(schedule_id, "resume")))

    def run(self, schedule_id: str) -> Run:
        """Start a run now, in addition to the scheduled times."""
        return read_record(Run, self._call("POST", _path(schedule_id, "run")))

    def runs(self, schedule_id: str, *, limit: int | None = None) -> Iterator[Run]:
        """The runs of a schedule, latest first, at most `limit` of them. Each page is requested when it is needed."""
        return (
            read_record(Run, entry) for entry in self._transport.list_pages(_path(schedule_id, "runs"), limit=limit)
        )

    def run_of(self, schedule_id: str, run_id: str) -> Run:
        """The current state of a run."""
        return read_record(
            Run, self._call("GET", _path(schedule_id, f"runs/{quote(run_id, safe='')}"), repeatable=True)
        )

    def _call(self, method: str, path: str, *, repeatable: bool = False, **content: Any) -> dict[str, Any]:
        return self._transport.call_json(method, path, repeatable=repeatable, **content)


def _without_datetimes(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in fields.items()}


def _path(schedule_id: str, action: str = "") -> str:
    return f"/v1/schedules/{quote(schedule_id, safe='')}{'/' if action else ''}{action}"
