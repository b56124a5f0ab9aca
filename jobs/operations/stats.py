"""Reads the counts of the fleet and of a tenant. The scripts count; this module only reads."""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import Field
from redis import Redis

from jobs.catalogue.catalogue import Catalogue
from jobs.catalogue.status import ModelStatus, Status, WorkerStatus, status_of
from jobs.foundation.job_states import FINAL, State
from jobs.foundation.metric_catalogue import HOLDERS, TRY_OUTCOMES
from jobs.foundation.redis_keys import Keys
from jobs.foundation.values import moment
from jobs.plan.script_runner import ScriptRunner
from jobs.records.job_codec import MICRO
from jobs.records.job_models import WEIGHTS, Outcome, Record

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
SAMPLE_MS = 10_000
"""How often jobs/plan.lua keeps a sample."""
MAX_LANES = 2000
BREAKER_MS = 86_400_000
"""After this time without a delivery a receiver no longer counts as paused."""
OUTCOMES: tuple[str, ...] = Outcome.__args__  # type: ignore[attr-defined]
_OF_TENANT = ["in_flight", "day", "today", "max_queued", "max_in_flight", "max_daily"]
_PRIORITY_OF = {weight: priority for priority, weight in WEIGHTS.items()}


class Stretch(Record):
    """What happened in the last minute or hour.

    Attributes:
        over_s: seconds that these counts are known for: fewer where the store or the model is younger.
        retried: attempts that ended without ending their jobs.
        leases_lost: of workers that died, and of messages that reached nobody.
    """

    over_s: float = 0
    submitted: int = 0
    started: int = 0
    succeeded: int = 0
    filtered: int = 0
    failed: int = 0
    canceled: int = 0
    retried: int = 0
    leases_lost: int = 0
    cost_usd: float = 0


class ModelStats(Record):
    """One model's counts: now, since ever, and of late.

    Attributes:
        jobs: by the state they are in; an ended one counts also when its record has expired. Those that run are those
            that occupy the window; a canceled job occupies it until its worker settles.
        ended: ends by state; a job that was tried again by its user has several.
        attempts: ended attempts by their outcome in the jobs' logs.
        leases_lost: by who held them: a `worker` that died, or `nobody`, since the message was lost.
        settlements_refused: ends that came too late and wrote nothing.
        paid, paid_again: calls that cost money or may have; those of a job that had been paid for already.
        lanes: that the plan may take from.
        oldest_queued_s: by priority, how long the longest waiting next job of a lane has been queued.
    """

    name: str
    window: int
    concurrency: int
    pace_rpm: float
    in_flight: int
    parked: bool
    parked_reason: str | None
    jobs: dict[State, int]
    submitted: int
    started: int
    ended: dict[State, int]
    attempts: dict[str, int]
    leases_lost: dict[str, int]
    settlements_refused: int
    paid: int
    paid_again: int
    reused: int
    parks: int
    cost_usd: float
    lanes: int
    oldest_queued_s: dict[str, float]
    last_minute: Stretch
    last_hour: Stretch


class DeliveryStats(Record):
    """Webhooks.

    Attributes:
        waiting, sending: deliveries now.
        ended: `succeeded` and `exhausted`, since ever.
        tries: by how they ended.
        breakers_open: receivers left alone after failures in a row.
        endpoints_disabled: how often one was, because it kept failing.
        outbox: events without deliveries yet.
    """

    waiting: int
    sending: int
    ended: dict[str, int]
    tries: dict[str, int]
    breakers_open: int
    endpoints_disabled: int
    outbox: int


class FleetStats(Record):
    """Everything, for operators.

    Attributes:
        rows: of manifests.
        memory_used_bytes: by Redis.
        memory_limit_bytes: its `maxmemory`, or the machine's memory where it has none.
    """

    models: list[ModelStats]
    jobs: dict[State, int]
    last_minute: Stretch
    last_hour: Stretch
    cost_usd: float
    slots: int
    workers: list[WorkerStatus]
    deliveries: DeliveryStats
    rows: dict[str, int]
    memory_used_bytes: int
    memory_limit_bytes: int


class TenantStats(Record):
    """One tenant's own counts; limits are None where there are none.

    Attributes:
        jobs: by the state they are in.
        in_flight: attempts under way.
        submitted_today: jobs of this day (UTC).
    """

    name: str
    jobs: dict[State, int]
    in_flight: int = 0
    submitted_today: int = 0
    max_queued: int | None = None
    max_in_flight: int | None = None
    max_daily: int | None = None


class StatsReport(Record):
    """What `GET /v1/stats` answers."""

    at: datetime
    tenant: TenantStats
    fleet: FleetStats | None = Field(default=None, description="For admin keys alone.")


class Stats:
    """Reads counts.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
        catalogue: the models.
        scripts: runs the scripts.
        status: of the workers.
    """

    def __init__(self, redis: Redis, keys: Keys, catalogue: Catalogue, scripts: ScriptRunner, status: Status) -> None:
        self._redis = redis
        self._keys = keys
        self._catalogue = catalogue
        self._scripts = scripts
        self._status = status

    def now_ms(self) -> int:
        """By the server's clock."""
        seconds, micros = self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def report(self, tenant: str, *, fleet: bool) -> StatsReport:
        """One tenant's counts, and those of the fleet where asked for."""
        return StatsReport(at=moment(self.now_ms()), tenant=self.tenant(tenant), fleet=self.fleet() if fleet else None)

    def fleet(self) -> FleetStats:
        """All counts. It takes five round trips, and a sixth in the hour after planning paused."""
        specs = list(self._catalogue.models.values())
        now, *lanes = self._scripts.run(
            "models/queue_ages", [self._keys.model(spec.name) for spec in specs], [MAX_LANES]
        )
        pipe = self._redis.pipeline(transaction=False)
        pipe.hmget(self._keys.fleet, ["slots", "rows:accepted", "rows:rejected"])
        pipe.hgetall(self._keys.deliveries("totals"))
        pipe.zcount(self._keys.deliveries("breakers"), int(now) - BREAKER_MS, "+inf")
        pipe.xlen(self._keys.outbox)
        pipe.info("memory")
        for model in specs:
            pipe.hgetall(self._keys.model(model.name))
            pipe.hgetall(self._keys.totals(model.name))
            pipe.lrange(self._keys.samples(model.name), 0, MINUTE_MS // SAMPLE_MS)
            pipe.lindex(self._keys.samples(model.name), -1)
        (slots, accepted, rejected), delivery_totals, breakers, outbox, memory, *rest = pipe.execute()
        hours = self._hours([spec.name for spec in specs], rest[2::4], rest[3::4], int(now))
        models = []
        for i, spec in enumerate(specs):
            record, totals, minute, _ = rest[4 * i : 4 * i + 4]
            status = status_of(spec, record, int(slots or 0))
            models.append(_model_stats(status, _Read(totals, minute, hours[i], lanes[i]), int(now)))
        return FleetStats(
            models=models,
            jobs={state: sum(model.jobs[state] for model in models) for state in State},
            last_minute=_sum(model.last_minute for model in models),
            last_hour=_sum(model.last_hour for model in models),
            cost_usd=round(sum(model.cost_usd for model in models), 6),
            slots=int(slots or 0),
            workers=self._status.workers(),
            deliveries=DeliveryStats(
                waiting=int(delivery_totals.get("n:waiting", 0)),
                sending=int(delivery_totals.get("n:sending", 0)),
                ended={state: int(delivery_totals.get(f"ended:{state}", 0)) for state in ("succeeded", "exhausted")},
                tries={outcome: int(delivery_totals.get(f"tries:{outcome}", 0)) for outcome in TRY_OUTCOMES},
                breakers_open=breakers,
                endpoints_disabled=int(delivery_totals.get("disabled", 0)),
                outbox=outbox,
            ),
            rows={"accepted": int(accepted or 0), "rejected": int(rejected or 0)},
            memory_used_bytes=int(memory["used_memory"]),
            memory_limit_bytes=int(memory["maxmemory"]) or int(memory.get("total_system_memory", 0)),
        )

    def _hours(self, names: list[str], minutes: list[list[str]], oldest: list[str | None], now: int) -> list[list[str]]:
        """For each model its samples of the last hour, newest first.

        The last of its list is the oldest of the hour. Only after a pause of planning it is older, until the plan has
        trimmed the list, a little at each sample; then the list is read as far as an hour can go back.
        """
        hours = [[*minute, last] if last else minute for minute, last in zip(minutes, oldest, strict=True)]
        # If even the newest sample is older than an hour, nothing was planned since then, and the sample is current.
        paused = [i for i, hour in enumerate(hours) if hour and _inside(hour[0], now) and not _inside(hour[-1], now)]
        if paused:
            pipe = self._redis.pipeline(transaction=False)
            for i in paused:
                pipe.lrange(self._keys.samples(names[i]), 0, HOUR_MS // SAMPLE_MS + 1)
            for i, hour in zip(paused, pipe.execute(), strict=True):
                hours[i] = hour
        return hours

    def tenant(self, tenant: str) -> TenantStats:
        """One tenant's counts."""
        (counted,) = self._counted([tenant])
        return counted

    def tenants(self) -> list[TenantStats]:
        """The counts of every tenant, in two round trips."""
        return self._counted(sorted(str(tenant) for tenant in self._redis.smembers(self._keys.tenants)))

    def _counted(self, tenants: list[str]) -> list[TenantStats]:
        pipe = self._redis.pipeline(transaction=False)
        pipe.time()
        for tenant in tenants:
            pipe.hmget(self._keys.tenant(tenant), _OF_TENANT)
            for state in State:
                pipe.zcard(self._keys.index(tenant, state))
        (seconds, _), *rest = pipe.execute()
        today, size = moment(int(seconds) * 1000).strftime("%Y-%m-%d"), 1 + len(State)
        return [_tenant_stats(tenant, rest[size * i : size * (i + 1)], today) for i, tenant in enumerate(tenants)]


class _Read(NamedTuple):
    """A model as the store holds it."""

    totals: dict[str, str]
    minute: list[str]
    hour: list[str]
    lanes: list[Any]


def _tenant_stats(tenant: str, read: list[Any], this_day: str) -> TenantStats:
    (in_flight, day, today, *limits), *counts = read
    queued, at_once, daily = (int(limit) if limit else None for limit in limits)
    return TenantStats(
        name=tenant,
        jobs=dict(zip(State, counts, strict=True)),
        in_flight=int(in_flight or 0),
        submitted_today=int(today or 0) if day == this_day else 0,
        max_queued=queued,
        max_in_flight=at_once,
        max_daily=daily,
    )


def _model_stats(status: ModelStatus, read: _Read, now: int) -> ModelStats:
    totals, minute, hour, lanes = read

    def count(name: str) -> int:
        return int(totals.get(name, 0))

    ages = {
        _PRIORITY_OF[int(weight)]: max((now - float(since)) / 1000, 0.0)
        for weight, since in zip(lanes[1::2], lanes[2::2], strict=True)
    }
    return ModelStats(
        name=status.name,
        window=status.window,
        concurrency=status.limits.concurrency,
        pace_rpm=status.pace_rpm,
        in_flight=status.in_flight,
        parked=status.parked,
        parked_reason=status.parked_reason,
        jobs={
            State.QUEUED: status.queued,
            State.WAITING: status.waiting,
            State.RUNNING: status.in_flight,
            **{state: count(f"ended:{state}") - count(f"again:{state}") for state in State if state in FINAL},
        },
        submitted=count("submitted"),
        started=count("started"),
        ended={state: count(f"ended:{state}") for state in State if state in FINAL},
        # A success is counted once, as the end of its job.
        attempts={outcome: count(f"outcome:{outcome}") for outcome in OUTCOMES}
        | {"succeeded": count("ended:succeeded")},
        leases_lost={holder: count(f"lost:{holder}") for holder in HOLDERS},
        settlements_refused=count("refused"),
        paid=count("paid"),
        paid_again=count("paid_again"),
        reused=count("reused"),
        parks=count("parks"),
        cost_usd=count("cost") / MICRO,
        lanes=int(lanes[0]),
        oldest_queued_s={priority: round(ages.get(priority, 0.0), 3) for priority in WEIGHTS},
        last_minute=_since(totals, minute, now, MINUTE_MS),
        last_hour=_since(totals, hour, now, HOUR_MS),
    )


def _taken_at(sample: str) -> int:
    return int(sample.partition(" ")[0])


def _inside(sample: str, now: int, stretch_ms: int = HOUR_MS) -> bool:
    """Whether it was taken within the stretch, or so little before that none is nearer to its begin."""
    return now - _taken_at(sample) <= stretch_ms + SAMPLE_MS


def _since(totals: Mapping[str, str], samples: list[str], now: int, stretch_ms: int) -> Stretch:
    """The difference to the oldest sample of the stretch; the newest where all are older: nothing was planned since."""
    if not samples:
        return Stretch()
    inside = [sample for sample in samples if _inside(sample, now, stretch_ms)]
    chosen = min(inside, key=_taken_at) if inside else max(samples, key=_taken_at)
    ms, before = _taken_at(chosen), json.loads(chosen.partition(" ")[2]) or {}

    def more(*names: str) -> int:
        return sum(int(totals.get(name, 0)) - int(before.get(name, 0)) for name in names)

    return Stretch(
        over_s=round(min(max(now - ms, 0), stretch_ms) / 1000, 1),
        submitted=more("submitted"),
        started=more("started"),
        succeeded=more("ended:succeeded"),
        filtered=more("ended:filtered"),
        failed=more("ended:failed"),
        canceled=more("ended:canceled"),
        retried=more(*(f"outcome:{outcome}" for outcome in OUTCOMES if outcome not in FINAL)),
        leases_lost=more(*(f"lost:{holder}" for holder in HOLDERS)),
        cost_usd=more("cost") / MICRO,
    )


def _sum(stretches: Iterable[Stretch]) -> Stretch:
    every = list(stretches)
    counts = {
        name: sum(getattr(stretch, name) for stretch in every) for name in Stretch.model_fields if name != "over_s"
    }
    return Stretch(over_s=max((stretch.over_s for stretch in every), default=0), **counts)
