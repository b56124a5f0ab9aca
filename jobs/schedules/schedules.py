"""Commands on schedules: read, pause, resume, run, delete; and the claim of due ticks, which claims each tick once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redis import Redis

from jobs.foundation.errors import Conflict, NotFound
from jobs.foundation.ids import made_at
from jobs.foundation.paging import Page, check_limit, page_of_keys, read_cursor, write_cursor
from jobs.foundation.redis_keys import Keys
from jobs.foundation.values import moment, to_ms
from jobs.plan.script_runner import ScriptRunner
from jobs.schedules.cron import Cron
from jobs.schedules.models import (
    Run,
    RunTotals,
    Schedule,
    ScheduleState,
    ScheduleTemplate,
    run_id,
)
from jobs.schedules.runs import Runs

MAX_PAGE = 200
MAX_TICKS = 200
"""Ticks of one script call."""
SHOWN_TICKS = 3


@dataclass(frozen=True)
class Due:
    """A schedule whose tick has come.

    Attributes:
        tick_ms: the tick, ms since 1970.
        cron, timezone: of its record.
        now: the server's clock.
    """

    schedule_id: str
    tick_ms: int
    cron: str
    timezone: str
    now: datetime


@dataclass(frozen=True)
class Claimed:
    """The result of a claim: the numbers of runs created and of ticks recorded as missed."""

    runs: int
    missed: int


class Schedules:
    """The schedules of all tenants. Safe in any number of processes and threads at once.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
        scripts: runs the scripts.
        runs: records of their runs.
    """

    def __init__(self, redis: Redis, keys: Keys, scripts: ScriptRunner, runs: Runs) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = scripts
        self._runs = runs

    def now(self) -> datetime:
        """The server's clock; schedules use no other clock."""
        return moment(self._scripts.run("schedules/list_due", [self._keys.schedules_due], [0])[0])

    def due(self, *, limit: int = 50) -> list[Due]:
        """Schedules whose tick has come."""
        now, *values = self._scripts.run("schedules/list_due", [self._keys.schedules_due], [limit])
        fields = iter(values)
        return [
            Due(self._keys.id_of(key), int(float(tick)), cron, zone, moment(now))
            for key, tick, cron, zone in zip(fields, fields, fields, fields, strict=True)
        ]

    def claim(self, due: Due) -> Claimed | None:
        """Create runs for its ticks up to now, and set its next tick; None if another caller has claimed them.

        Raises:
            ValueError: this machine cannot parse its expression or time zone.
        """
        cron = Cron.parse(due.cron, due.timezone)
        first, claimed = due.tick_ms, Claimed(0, 0)
        while True:
            ticks, after = _chunk_of_ticks(cron, first, due.now)
            command = {"trigger": "cron", "ticks": ticks, "next": after, "made_up": claimed.runs > 0}
            answer = self._fire(due.schedule_id, [run_id(due.schedule_id, tick) for tick in ticks], command)
            if answer[0] != "ok":
                return claimed if first != due.tick_ms else None
            claimed = Claimed(claimed.runs + int(answer[1]), claimed.missed + int(answer[2]))
            if after is None or moment(after) > due.now:
                return claimed
            first = after

    def _fire(self, schedule_id: str, runs: Sequence[str], command: Mapping[str, Any]) -> list[Any]:
        keys = [
            self._keys.schedules_due,
            self._keys.background_tasks,
            self._keys.schedule(schedule_id),
            self._keys.runs(schedule_id),
            self._keys.runs_waiting(schedule_id),
            *map(self._keys.run, runs),
        ]
        answer: list[Any] = self._scripts.run("schedules/fire", keys, [json.dumps(command)])
        return answer

    def run_now(self, tenant: str, schedule_id: str) -> Run:
        """Start a manual run; the schedule may be paused or ended.

        Raises:
            NotFound: the tenant has no schedule with this id.
            Conflict: a run is open, and the schedule does not allow overlap.
        """
        self._record(tenant, schedule_id)
        now = to_ms(self.now())
        run = run_id(schedule_id, now, manual=True)
        answer = self._fire(schedule_id, [run], {"trigger": "manual", "ticks": [now], "next": None, "made_up": False})
        if answer[0] == "gone":
            raise NotFound(f"there is no schedule {schedule_id}")
        if answer[0] == "busy":
            raise Conflict(f"a run of {schedule_id} is open: wait for its end, or let runs queue (`overlap`)")
        return self._runs.get(tenant, schedule_id, run)

    def write(
        self,
        schedule_id: str,
        tenant: str,
        template: ScheduleTemplate,
        *,
        revision: str,
        state: ScheduleState,
        next_tick: datetime | None,
        keep_tick: bool = False,
        more: Mapping[str, str] | None = None,
    ) -> bool:
        """Create or replace a schedule.

        Args:
            schedule_id: its id.
            tenant: its owner.
            template: its fields.
            revision: of the record that was read; "" for a new schedule.
            state: its new state.
            next_tick: its next tick.
            keep_tick: whether the stored tick stays, and `next_tick` is ignored.
            more: additional fields.

        Returns:
            False if it was changed or deleted after `revision` was read.
        """
        fields = {
            "tenant": tenant,
            "name": template.name,
            "template": template.model_dump_json(exclude_defaults=True),
            "cron": template.cron,
            "timezone": template.timezone,
            "overlap": template.overlap,
            "catch_up": str(int(template.catch_up_s * 1000)),
            "state": state,
            **({"ends": str(to_ms(template.ends_at))} if template.ends_at else {}),
            **({"webhook_url": template.webhook_url} if template.webhook_url else {}),
            **({"webhook_events": json.dumps(template.webhook_events)} if template.webhook_events else {}),
            **(more or {}),
        }
        drop = [name for name in ("ends", "webhook_url", "webhook_events") if name not in fields]
        drop += ["items", "items_count"] if template.manifest is not None else []
        command = {
            "revision": revision,
            "set": fields,
            "drop": drop,
            "keep": keep_tick,
            "next": to_ms(next_tick) if next_tick and state is ScheduleState.ACTIVE else None,
        }
        keys = [self._keys.schedule(schedule_id), self._keys.schedules_due, self._keys.schedules(tenant)]
        return bool(self._scripts.run("schedules/write", keys, [json.dumps(command, ensure_ascii=False)]))

    def record(self, schedule_id: str) -> dict[str, str]:
        """The schedule's hash as stored; empty if there is no such schedule."""
        record: dict[Any, Any] = self._redis.hgetall(self._keys.schedule(schedule_id))
        return record

    def _record(self, tenant: str, schedule_id: str) -> dict[str, str]:
        record = self.record(schedule_id)
        if record.get("tenant") != tenant or "template" not in record:
            raise NotFound(f"there is no schedule {schedule_id}")
        return record

    def get(self, tenant: str, schedule_id: str) -> Schedule:
        """One schedule.

        Raises:
            NotFound: the tenant has no schedule with this id.
        """
        record = self._record(tenant, schedule_id)
        return self._decode(schedule_id, record, self._next_tick(schedule_id))

    def read(self, tenant: str, schedule_id: str) -> tuple[ScheduleTemplate, dict[str, str]]:
        """The template of a schedule, and its hash as stored.

        Raises:
            NotFound: the tenant has no schedule with this id.
        """
        record = self._record(tenant, schedule_id)
        return ScheduleTemplate.model_validate_json(record["template"]), record

    def page(self, tenant: str, *, limit: int = 50, cursor: str | None = None) -> Page[Schedule]:
        """A tenant's schedules, the newest first.

        Raises:
            InvalidInput: naming `limit` or `cursor`.
        """
        check_limit(limit, MAX_PAGE)
        below = self._keys.schedule(read_cursor(cursor, "sch_.+")) if cursor else None
        keys, more = page_of_keys(self._redis, self._keys.schedules(tenant), below, limit)
        pipe = self._redis.pipeline(transaction=False)
        for key in keys:
            pipe.hgetall(key)
            pipe.zscore(self._keys.schedules_due, key)
        answers = iter(pipe.execute())
        data = [
            self._decode(self._keys.id_of(key), record, moment(tick) if tick is not None else None)
            for key, record, tick in zip(keys, answers, answers, strict=True)
            if "template" in record
        ]
        return Page(data, write_cursor(self._keys.id_of(keys[-1])) if more else None)

    def pause(self, tenant: str, schedule_id: str) -> Schedule:
        """Pause a schedule; an open run continues.

        Raises:
            NotFound: the tenant has no schedule with this id.
            Conflict: it is not active.
        """
        return self._change_state(tenant, schedule_id, ScheduleState.ACTIVE, ScheduleState.PAUSED)

    def resume(self, tenant: str, schedule_id: str) -> Schedule:
        """Resume a schedule; it fires at its first tick after now.

        Raises:
            NotFound: the tenant has no schedule with this id.
            Conflict: it is not paused.
        """
        return self._change_state(tenant, schedule_id, ScheduleState.PAUSED, ScheduleState.ACTIVE)

    def _change_state(self, tenant: str, schedule_id: str, source: ScheduleState, target: ScheduleState) -> Schedule:
        while True:
            template, record = self.read(tenant, schedule_id)
            if record["state"] != source:
                raise Conflict(f"schedule {schedule_id} is {record['state']}, not {source}")
            state, tick = self.plan(template, target)
            if self.write(schedule_id, tenant, template, revision=record["revision"], state=state, next_tick=tick):
                return self.get(tenant, schedule_id)

    def plan(self, template: ScheduleTemplate, state: ScheduleState) -> tuple[ScheduleState, datetime | None]:
        """Its state and next tick after a change to `state`; without a tick before its end it has ended."""
        if state is ScheduleState.PAUSED:
            return state, None
        tick = Cron.parse(template.cron, template.timezone).next_after(self.now())
        if tick is None or (template.ends_at is not None and tick > template.ends_at):
            return ScheduleState.ENDED, None
        return ScheduleState.ACTIVE, tick

    def delete(self, tenant: str, schedule_id: str) -> None:
        """Delete it and its runs; batches that they created continue.

        Raises:
            NotFound: the tenant has no schedule with this id.
        """
        self._record(tenant, schedule_id)
        keys = [
            self._keys.schedule(schedule_id),
            self._keys.schedules_due,
            self._keys.schedules(tenant),
            self._keys.runs(schedule_id),
            self._keys.runs_waiting(schedule_id),
            self._keys.background_tasks,
        ]
        self._scripts.run("schedules/delete", keys, [])

    def _next_tick(self, schedule_id: str) -> datetime | None:
        tick: Any = self._redis.zscore(self._keys.schedules_due, self._keys.schedule(schedule_id))
        return moment(tick) if tick is not None else None

    def _decode(self, schedule_id: str, record: Mapping[str, str], tick: datetime | None) -> Schedule:
        template = ScheduleTemplate.model_validate_json(record["template"])
        fields = template.model_dump(exclude={"not_before", "defaults"})
        ticks: list[datetime] = []
        if tick is not None:
            following = Cron.parse(template.cron, template.timezone).some_after(tick, SHOWN_TICKS - 1)
            ticks = [shown for shown in (tick, *following) if template.ends_at is None or shown <= template.ends_at]
        current = record.get("current")
        return Schedule(
            **fields,
            defaults=template.defaults.model_dump(mode="json", exclude_defaults=True),
            id=schedule_id,
            tenant=record["tenant"],
            state=ScheduleState(record["state"]),
            items_count=int(record["items_count"]) if "items_count" in record else None,
            next_run_at=tick,
            next_runs=ticks,
            current_run=self._keys.id_of(current) if current else None,
            runs=RunTotals(**{name: int(record.get(f"n:{name}", 0)) for name in RunTotals.model_fields}),
            created_at=moment(record["created"]) if "created" in record else made_at(schedule_id),
        )


def _chunk_of_ticks(cron: Cron, first_ms: int, now: datetime) -> tuple[list[int], int | None]:
    """At most `MAX_TICKS` ticks from `first_ms` up to `now`, and the tick after them or None."""
    ticks = [first_ms]
    for tick in cron.after(moment(first_ms)):
        if tick > now or len(ticks) == MAX_TICKS:
            return ticks, to_ms(tick)
        ticks.append(to_ms(tick))
    return ticks, None
