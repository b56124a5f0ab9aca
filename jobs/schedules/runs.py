"""The runs of schedules. Each is a record and, while it is open, a background task."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from redis import Redis

from jobs.batches.models import COUNTED, Counts
from jobs.batches.progress import counts_of
from jobs.events.outbox import Event
from jobs.foundation.errors import NotFound
from jobs.foundation.paging import Page, check_limit, read_cursor, write_cursor
from jobs.foundation.redis_keys import Keys
from jobs.foundation.values import moment
from jobs.plan.script_runner import ScriptRunner
from jobs.records.job_codec import MICRO
from jobs.schedules.models import FINAL_RUNS, Run, RunState, run_id

MAX_PAGE = 200


class Runs:
    """The runs of all schedules.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
        scripts: runs the scripts.
    """

    def __init__(self, redis: Redis, keys: Keys, scripts: ScriptRunner) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = scripts

    def update(
        self, run: str, number: int, fields: Mapping[str, str], *, schedule_id: str, batch_id: str = "-", seen: str = ""
    ) -> bool:
        """Write fields of a run; `fields` may have a new `state`.

        Returns:
            False if another worker has claimed the task `number`.
        """
        keys = [
            self._keys.background_tasks,
            self._keys.run(run),
            self._keys.schedule(schedule_id),
            self._keys.runs_waiting(schedule_id),
            self._keys.batch(batch_id),
        ]
        command = json.dumps({"fields": fields, "seen": seen}, ensure_ascii=False)
        return bool(self._scripts.run("schedules/advance_run", keys, [number, command]))

    def record(self, run: str) -> dict[str, str]:
        """The run's hash as stored; empty if there is no such run."""
        record: dict[Any, Any] = self._redis.hgetall(self._keys.run(run))
        return record

    def get(self, tenant: str, schedule_id: str, run: str) -> Run:
        """One run.

        Raises:
            NotFound: the schedule has no such run, or belongs to another tenant.
        """
        record = self.record(run)
        if record.get("tenant") != tenant or record.get("schedule") != self._keys.schedule(schedule_id):
            raise NotFound(f"schedule {schedule_id} has no run {run}")
        return self._shown([(run, record)])[0]

    def page(self, tenant: str, schedule_id: str, *, limit: int = 50, cursor: str | None = None) -> Page[Run]:
        """A schedule's runs, the latest first.

        Raises:
            NotFound: the tenant has no schedule with this id.
            InvalidInput: naming `limit` or `cursor`.
        """
        if self._redis.hget(self._keys.schedule(schedule_id), "tenant") != tenant:
            raise NotFound(f"there is no schedule {schedule_id}")
        check_limit(limit, MAX_PAGE)
        high: int | str = "+inf"
        last = read_cursor(cursor, re.escape(run_id(schedule_id, 0)[:-13]) + r"\d{13}m?") if cursor else None
        if last:
            high = int(last.rpartition("-")[2].removesuffix("m"))
        # A tick and a manual run may have the same moment: the run of the cursor is excluded by its id.
        members: Any = self._redis.zrevrangebyscore(self._keys.runs(schedule_id), high, "-inf", start=0, num=limit + 3)
        ids = [run for run in map(self._keys.id_of, members) if last is None or run < last]
        pipe = self._redis.pipeline(transaction=False)
        for run in ids[:limit]:
            pipe.hgetall(self._keys.run(run))
        records = zip(ids, pipe.execute(), strict=False)
        data = self._shown([(run, record) for run, record in records if "state" in record])
        return Page(data, write_cursor(ids[limit - 1]) if len(ids) > limit else None)

    def data_of(self, event: Event) -> Any:
        """The `data` of an event about a run: the run at that time, as the API shows it."""
        return _decode_run(self._keys, event.subject, json.loads(event.data), {}).model_dump(mode="json")

    def _shown(self, runs: Sequence[tuple[str, dict[str, str]]]) -> list[Run]:
        """Decode runs; a running one gets the current counts and cost of its batch."""
        running = [record["batch"] for _, record in runs if record["state"] == RunState.RUNNING]
        pipe = self._redis.pipeline(transaction=False)
        for batch_id in running:
            pipe.hmget(self._keys.batch(batch_id), [*COUNTED, "cost"])
        now = dict(zip(running, pipe.execute(), strict=True))
        shown = []
        for run, record in runs:
            values = now.get(record.get("batch", ""))
            live = {name: value for name, value in zip([*COUNTED, "cost"], values or (), strict=False) if value}
            shown.append(_decode_run(self._keys, run, record, live))
        return shown


def _decode_run(keys: Keys, run: str, record: Mapping[str, str], live: Mapping[str, str]) -> Run:
    counts = Counts.model_validate_json(record["counts"]) if "counts" in record else None
    if live:
        counts = counts_of(live)
    state = RunState(record["state"])
    return Run(
        id=run,
        schedule_id=keys.id_of(record["schedule"]),
        schedule_name=record.get("name"),
        state=state,
        trigger="manual" if record["trigger"] == "manual" else "cron",
        scheduled_at=moment(record["tick"]),
        batch_id=record.get("batch"),
        reason=record.get("reason"),
        waits_for=record.get("waits_for") if state not in FINAL_RUNS else None,
        listed=int(record["listed"]) if "listed" in record else None,
        unchanged=int(record["unchanged"]) if "unchanged" in record else None,
        counts=counts,
        cost_usd=int((live or record).get("cost", 0)) / MICRO,
        started_at=moment(record["started"]) if "started" in record else None,
        finished_at=moment(record["finished"]) if "finished" in record and state in FINAL_RUNS else None,
    )
