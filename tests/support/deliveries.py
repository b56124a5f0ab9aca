"""Deliveries over real scripts with a clock of their own, and short words for what tests do with them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from redis import Redis

from jobs.events.outbox import Event, Outbox
from jobs.foundation.redis_keys import Keys
from jobs.webhooks.deliveries import Deliveries, DeliveryAttempt
from jobs.webhooks.delivery_models import DeliveryState
from jobs.webhooks.retry_policy import Exchange, judge
from jobs.webhooks.routing import Target, line_card
from tests.support.clock import Clock

GOOD = Exchange(took_ms=5, status=200, answer="thanks")
BAD = Exchange(took_ms=5, status=500, answer="oops")
HUNG = Exchange(took_ms=15_000, error="no whole answer within 15 s")


class Tellings:
    """Deliveries under a key prefix of their own; `threads` of one webhook worker."""

    def __init__(self, redis: Redis, prefix: str, clock: Clock, *, threads: int = 8) -> None:
        self.redis = redis
        self.clock = clock
        self.keys = Keys(prefix)
        self.deliveries = Deliveries(redis, self.keys, retention_s=30 * 86_400, clock_ms=clock)
        self.outbox = Outbox(redis, self.keys)
        self.outbox.ensure()
        self.threads = threads
        self.beat()

    def beat(self) -> None:
        """The one worker's sign of life."""
        self.deliveries.register("w1", self.threads)

    def endpoint(self, name: str, *, tenant: str = "acme", **fields: str) -> str:
        """A line as an endpoint's is; its id."""
        line_id = f"ep_{name}"
        card: dict[Any, Any] = {
            **line_card(self.keys, line_id, tenant),
            "enabled": "1",
            "endpoint": "1",
            "url": "http://r",
            **fields,
        }
        self.redis.hset(self.keys.line(line_id), mapping=card)
        return line_id

    def event(self, event_type: str = "job.succeeded", *, tenant: str = "acme", subject: str = "job_x") -> Event:
        self.outbox.put(event_type, tenant=tenant, subject=subject, data="{}", at_ms=self.clock())
        (event,) = self.outbox.read("t1", count=1, block_ms=0)
        return event

    def tell(self, *lines: str, number: int = 1) -> list[str]:
        """So many events for these lines; the ids of the deliveries."""
        ids = []
        for _ in range(number):
            event = self.event()
            targets = [Target(line) for line in lines]
            self.deliveries.fan_out(event, json.dumps({"id": event.id}), targets)
            ids += [target.delivery_id(event.ulid) for target in targets]
        return ids

    def plan(self) -> list[tuple[str, int]]:
        return self.deliveries.plan().dispatches

    def claim(self, started: tuple[str, int]) -> DeliveryAttempt:
        telling = self.deliveries.claim(*started)
        assert telling is not None
        return telling

    def end(self, telling: DeliveryAttempt, exchange: Exchange = GOOD, *, jitter: float = 0.0) -> DeliveryState | None:
        return self.deliveries.settle(telling, exchange, judge(exchange, telling.tries, jitter))

    def turn(self, answer: Callable[[DeliveryAttempt], Exchange] = lambda _: GOOD) -> list[DeliveryAttempt]:
        """Plan, and end all that was started."""
        tellings = [self.claim(one) for one in self.plan()]
        for telling in tellings:
            self.end(telling, answer(telling))
        return tellings

    def field(self, thing: str, name: str) -> str | None:
        value = self.redis.hget(self.keys.line(thing), name)
        return None if value is None else str(value)

    def state(self, delivery_id: str) -> str | None:
        return self.field(delivery_id, "state")

    def due_in_s(self, delivery_id: str) -> float:
        return (float(self.field(delivery_id, "next") or "nan") - self.clock()) / 1000

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock() / 1000, UTC)
