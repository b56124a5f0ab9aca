"""A harness for deliveries: the real scripts under an own key prefix and an own clock."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from redis import Redis

from jobs.events.outbox import Event, Outbox
from jobs.foundation.redis_keys import Keys
from jobs.webhooks.deliveries import Deliveries, DeliveryAttempt
from jobs.webhooks.delivery_models import DeliveryState
from jobs.webhooks.delivery_scripts import DeliveryScripts
from jobs.webhooks.retry_policy import Exchange, judge
from jobs.webhooks.routing import Target, queue_record
from tests.support.clock import Clock

GOOD = Exchange(took_ms=5, status=200, answer="thanks")
BAD = Exchange(took_ms=5, status=500, answer="oops")
HUNG = Exchange(took_ms=15_000, error="no whole answer within 15 s")


class DeliveryHarness:
    """The deliveries of one webhook worker that has `threads` threads."""

    def __init__(self, redis: Redis, prefix: str, clock: Clock, *, threads: int = 8) -> None:
        self.redis = redis
        self.clock = clock
        self.keys = Keys(prefix)
        scripts = DeliveryScripts(redis, self.keys, retention_s=30 * 86_400, clock_ms=clock)
        self.deliveries = Deliveries(redis, self.keys, scripts)
        self.outbox = Outbox(redis, self.keys)
        self.outbox.ensure()
        self.threads = threads
        self.heartbeat()

    def heartbeat(self) -> None:
        """Register the worker as alive."""
        self.deliveries.register("w1", self.threads)

    def endpoint(self, name: str, *, tenant: str = "acme", **fields: str) -> str:
        """Store an endpoint's receiver queue. Returns the id."""
        queue_id = f"ep_{name}"
        record: dict[Any, Any] = {
            **queue_record(self.keys, queue_id, tenant),
            "enabled": "1",
            "endpoint": "1",
            "url": "http://r",
            **fields,
        }
        self.redis.hset(self.keys.receiver_queue(queue_id), mapping=record)
        return queue_id

    def event(self, event_type: str = "job.succeeded", *, tenant: str = "acme", subject: str = "job_x") -> Event:
        self.outbox.put(event_type, tenant=tenant, subject=subject, data="{}", at_ms=self.clock())
        (event,) = self.outbox.read("t1", count=1, block_ms=0)
        return event

    def fan_out(self, *queues: str, number: int = 1) -> list[str]:
        """Fan `number` events out to these receiver queues. Returns the ids of the deliveries."""
        ids = []
        for _ in range(number):
            event = self.event()
            targets = [Target(queue) for queue in queues]
            self.deliveries.fan_out([(event, json.dumps({"id": event.id}), targets)])
            ids += [target.delivery_id(event.ulid) for target in targets]
        return ids

    def plan(self) -> list[tuple[str, int]]:
        return self.deliveries.plan().dispatches

    def claim(self, started: tuple[str, int]) -> DeliveryAttempt:
        attempt = self.deliveries.claim(*started)
        assert attempt is not None
        return attempt

    def settle(
        self, attempt: DeliveryAttempt, exchange: Exchange = GOOD, *, jitter: float = 0.0
    ) -> DeliveryState | None:
        return self.deliveries.settle(attempt, exchange, judge(exchange, attempt.tries, jitter))

    def deliver_planned(self, answer: Callable[[DeliveryAttempt], Exchange] = lambda _: GOOD) -> list[DeliveryAttempt]:
        """Plan once, and settle each started attempt with `answer`. Returns the attempts."""
        attempts = [self.claim(dispatch) for dispatch in self.plan()]
        for attempt in attempts:
            self.settle(attempt, answer(attempt))
        return attempts

    def field(self, record_id: str, name: str) -> str | None:
        value = self.redis.hget(self.keys.receiver_queue(record_id), name)
        return None if value is None else str(value)

    def state(self, delivery_id: str) -> str | None:
        return self.field(delivery_id, "state")

    def due_in_s(self, delivery_id: str) -> float:
        return (float(self.field(delivery_id, "next") or "nan") - self.clock()) / 1000

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock() / 1000, UTC)
