"""Schedules over a real domain with their own clock; their background tasks run at once."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jobs.foundation.settings import Settings
from jobs.foundation.values import to_ms
from jobs.queueing.background_tasks import TaskKind
from jobs.schedules.models import Run, RunState, Schedule
from jobs.schedules.submission import parse_schedule
from jobs.wiring import Domain
from tests.support.batches import CATALOGUE, BatchHarness
from tests.support.clock import Clock
from workers.process.wiring import build_schedule_poller

PROMPT = "Put it on a white background"
ITEM = {"custom_id": "A", "image": "s3://{bucket}/in/a.png"}
MIDNIGHT = datetime(2027, 1, 15, tzinfo=UTC)


def hours(number: float) -> timedelta:
    return timedelta(hours=number)


def open_at(
    make_settings: Callable[..., Settings], directory: Path, clock: Clock, *, catalogue: str = CATALOGUE, **changes: Any
) -> Domain:
    """A domain whose scripts use `clock`; `changes` are settings."""
    config = directory / "retouch.toml"
    config.write_text(catalogue)
    return Domain.open(make_settings(**{"config": config, "retention_days": 1, **changes}), clock_ms=clock)


class Timetable:
    """Schedules of one tenant, their clock, and a harness that does the fleet's work."""

    def __init__(self, domain: Domain, clock: Clock, tenant: str = "acme") -> None:
        self.domain = domain
        self.clock = clock
        self.tenant = tenant
        domain.planner.register_models()
        domain.tenants.ensure(tenant)
        self.batch_harness = BatchHarness(domain, tenant)

    def set(self, at: datetime) -> None:
        """Set the clock."""
        self.clock.now_ms = to_ms(at)

    def make(self, cron: str = "0 * * * *", **fields: Any) -> str:
        """Create a schedule, with one item unless a source is given."""
        if "manifest" not in fields and "items" not in fields:
            item = {name: text.format(bucket=self.domain.bucket.name) for name, text in ITEM.items()}
            fields["items"] = [item]
        body = {"name": "nightly", "cron": cron, "defaults": {"prompt": PROMPT}, **fields}
        return self.domain.schedule_submission.create(parse_schedule(body), tenant=self.tenant).id

    def schedule(self, schedule_id: str) -> Schedule:
        return self.domain.schedules.get(self.tenant, schedule_id)

    def fire(self) -> int:
        """Poll once, as a worker does."""
        return build_schedule_poller(self.domain).fire()

    def runs(self, schedule_id: str) -> list[Run]:
        """Its runs, the first one first."""
        return list(reversed(self.domain.runs.page(self.tenant, schedule_id, limit=200).data))

    def states(self, schedule_id: str) -> list[str]:
        return [str(run.state) for run in self.runs(schedule_id)]

    def open_background_tasks(self, kind: TaskKind) -> list[str]:
        """The ids of the open background tasks of a kind."""
        found: Any = self.domain.redis.zrange(self.domain.keys.background_tasks, 0, -1)
        split = (member.split(" ", 1) for member in found)
        return [self.domain.keys.id_of(key) for name, key in split if name == kind]

    def do(self, *kinds: TaskKind) -> int:
        """Run the background tasks of these kinds that are open now. Returns how many there were."""
        done = 0
        for kind in kinds:
            for subject_id in self.open_background_tasks(kind):
                self.batch_harness.do(kind, subject_id)
                done += 1
        return done

    def begin(self) -> None:
        """Submit the batches of due runs, and read their manifests."""
        self.do(TaskKind.RUN, TaskKind.INGEST)

    def finish(self) -> int:
        """Run background tasks and jobs until none is left. Returns how many jobs there were."""
        jobs = 0
        while True:
            tasks = self.do(TaskKind.RUN, TaskKind.INGEST, TaskKind.SWEEP, TaskKind.RESULTS)
            ended = self.batch_harness.work()
            jobs += ended
            if not tasks and not ended:
                return jobs

    def open_runs(self, schedule_id: str) -> list[Run]:
        going = {RunState.DUE, RunState.QUEUED, RunState.RUNNING}
        return [run for run in self.runs(schedule_id) if run.state in going]
