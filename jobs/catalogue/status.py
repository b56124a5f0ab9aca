"""How the fleet is doing: models with their window and pace, and the workers that are alive."""

import json
from datetime import datetime
from typing import Any

from redis import Redis

from jobs.catalogue.catalogue import Catalogue, Dialect, ModelSpec, ParameterRule
from jobs.events.outbox import Event
from jobs.foundation.redis_keys import Keys
from jobs.foundation.values import moment
from jobs.records.job_models import Record


class ModelLimits(Record):
    """What the catalogue allows a model; units as in `ModelSpec`."""

    concurrency: int
    rpm: float
    timeout_s: float
    max_attempts: int
    prompt_max: int
    media_types: tuple[str, ...]
    max_image_bytes: int
    max_width: int
    max_height: int


class ModelStatus(Record):
    """A model now.

    Attributes:
        window: jobs that may be in flight at once, as found out.
        pace_rpm: starts a minute that the plan allows, as configured or found out; 0 = no limit.
        in_flight: jobs that occupy the window.
        queued, waiting: jobs on lanes, and jobs that are not due.
        parked_until: when the next probe may go out; None where parked by an operator.
    """

    name: str
    dialect: Dialect
    provider_model: str
    limits: ModelLimits
    parameters: dict[str, ParameterRule]
    price_usd: float
    window: int
    pace_rpm: float
    in_flight: int
    queued: int
    waiting: int
    parked: bool
    parked_code: str | None = None
    parked_reason: str | None = None
    parked_until: datetime | None = None


class WorkerStatus(Record):
    """A live worker, by its own words at its last pulse."""

    name: str
    host: str
    pid: int
    queues: list[str]
    slots: int
    draining: bool
    seen_at: datetime


class Status:
    """Reads the fleet's state from Redis; it changes nothing.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
        catalogue: the models.
    """

    def __init__(self, redis: Redis, keys: Keys, catalogue: Catalogue) -> None:
        self._redis = redis
        self._keys = keys
        self._catalogue = catalogue

    def models(self) -> list[ModelStatus]:
        """Every model of the catalogue."""
        specs = list(self._catalogue.models.values())
        pipe = self._redis.pipeline(transaction=False)
        pipe.hget(self._keys.fleet, "slots")
        for spec in specs:
            pipe.hgetall(self._keys.model(spec.name))
        slots, *records = pipe.execute()
        return [status_of(spec, record, int(slots or 0)) for spec, record in zip(specs, records, strict=True)]

    def data_of(self, event: Event) -> Any:
        """The `data` of an event about a model: the model as the API shows it, and why it was parked or resumed."""
        name = event.subject.removeprefix("model:")
        found = next((model for model in self.models() if model.name == name), None)
        return {"name": name, **(found.model_dump(mode="json") if found else {}), **json.loads(event.data)}

    def workers(self) -> list[WorkerStatus]:
        """Every worker whose pulse was felt within one lease."""
        names: list[Any] = self._redis.zrange(self._keys.workers, 0, -1)
        if not names:
            return []
        said = self._redis.mget([self._keys.worker(str(name)) for name in names])
        found = []
        for name, words in zip(names, said, strict=True):
            if words is None:
                continue
            told = json.loads(words)
            told["seen_at"] = moment(told["seen_at"] * 1000)
            found.append(WorkerStatus(name=str(name), **told))
        return found


def status_of(spec: ModelSpec, record: dict[str, str], slots: int) -> ModelStatus:
    """A model by its record; `slots` are the fleet's threads for edits."""
    limit = float(record.get("limit", spec.concurrency))
    paces = [float(value) for value in (record.get("rpm", str(spec.rpm)), record.get("pace", "0")) if float(value) > 0]
    until = record.get("park_until")
    code = record.get("parked")
    return ModelStatus(
        name=spec.name,
        dialect=spec.dialect,
        provider_model=spec.provider_model,
        limits=ModelLimits(**{name: getattr(spec, name) for name in ModelLimits.model_fields}),
        parameters=spec.parameters,
        price_usd=spec.price_usd,
        window=min(int(limit), spec.concurrency, slots),
        pace_rpm=round(min(paces), 1) if paces else 0,
        in_flight=int(record.get("in_flight", 0)),
        queued=int(record.get("n:queued", 0)),
        waiting=int(record.get("n:waiting", 0)),
        parked=code is not None,
        parked_code=code,
        parked_reason=record.get("park_reason"),
        parked_until=moment(until) if code and until else None,
    )
