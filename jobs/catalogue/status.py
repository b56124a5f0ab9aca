"""The state of the fleet: models with their window and pace, and live workers."""

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
    """A model's limits in the catalogue; units as in `ModelSpec`."""

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
    """The present state of a model.

    Attributes:
        window: discovered maximum of jobs in flight.
        pace_rpm: configured or discovered maximum of starts a minute; 0: no limit.
        in_flight: number of jobs in flight.
        queued, waiting: numbers of jobs in lanes, and of jobs that are not due yet.
        parked_until: time of the next probe; None if an operator parked the model.
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
    """A live worker, as it described itself in its last heartbeat."""

    name: str
    host: str
    pid: int
    queues: list[str]
    slots: int
    draining: bool
    seen_at: datetime


class Status:
    """Reads the fleet's state from Redis. It does not change it.

    Args:
        redis: a client that decodes responses.
        keys: the keys in Redis.
        catalogue: the models.
    """

    def __init__(self, redis: Redis, keys: Keys, catalogue: Catalogue) -> None:
        self._redis = redis
        self._keys = keys
        self._catalogue = catalogue

    def models(self) -> list[ModelStatus]:
        """The state of every model of the catalogue."""
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
        """All workers with a heartbeat within the last lease."""
        names: list[Any] = self._redis.zrange(self._keys.workers, 0, -1)
        if not names:
            return []
        descriptions = self._redis.mget([self._keys.worker(str(name)) for name in names])
        workers = []
        for name, text in zip(names, descriptions, strict=True):
            if text is None:
                continue
            description = json.loads(text)
            description["seen_at"] = moment(description["seen_at"] * 1000)
            workers.append(WorkerStatus(name=str(name), **description))
        return workers


def status_of(spec: ModelSpec, record: dict[str, str], slots: int) -> ModelStatus:
    """A model's state from its record; `slots` is the number of edit threads of all workers."""
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
