"""Reads and lists deliveries. It writes nothing."""

import heapq
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from redis import Redis
from ulid import ULID

from jobs.foundation.errors import NotFound
from jobs.foundation.paging import Page, check_limit, falling, read_cursor, write_cursor
from jobs.foundation.redis_keys import Keys
from jobs.webhooks.delivery_models import Delivery, DeliveryState, decode_delivery

MAX_PAGE_SIZE = 200
DELIVERY_ID = re.compile(r"dlv_[0-9A-HJKMNP-TV-Z]{26}-[0-9a-f]{10}")
FIELDS = (
    *("owner", "event", "type", "subject", "endpoint", "url", "state", "why", "at", "next", "finished", "log"),
    "line",
)


@dataclass(frozen=True)
class DeliveryFilter:
    """Which deliveries a list contains. None matches all.

    Attributes:
        event_type: the exact type.
        subject: id of the job, batch or other object of the events.
        since, until: time range of the events, without `until` itself.
    """

    state: DeliveryState | None = None
    event_type: str | None = None
    subject: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def matches(self, delivery: Delivery) -> bool:
        """Whether the delivery matches, apart from its time."""
        return (
            (self.state is None or delivery.state is self.state)
            and (self.event_type is None or delivery.event_type == self.event_type)
            and (self.subject is None or delivery.subject == self.subject)
        )


class DeliveryLog:
    """Reads deliveries from Redis.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    def get(self, tenant: str, delivery_id: str) -> Delivery:
        """One delivery.

        Raises:
            NotFound: the tenant has no delivery of that id; it may have expired.
        """
        deliveries = self._read(tenant, [delivery_id]) if DELIVERY_ID.fullmatch(delivery_id) else []
        if not deliveries:
            raise NotFound(f"there is no delivery {delivery_id[:64]}")
        return deliveries[0]

    def payload(self, tenant: str, delivery_id: str) -> Any:
        """The body that the delivery sends, decoded.

        Raises:
            NotFound: the tenant has no delivery of that id.
        """
        self.get(tenant, delivery_id)
        return json.loads(str(self._redis.hget(self._keys.delivery(delivery_id), "body") or "null"))

    def page(
        self,
        tenant: str,
        wanted: DeliveryFilter,
        *,
        endpoint_id: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Delivery]:
        """A page of a tenant's deliveries, those of the newest events first.

        Args:
            tenant: the owner.
            wanted: which deliveries.
            endpoint_id: only the deliveries of this endpoint, which must be the tenant's; None: all deliveries.
            limit: page size, 1 to 200.
            cursor: `next_cursor` of the previous page.

        Raises:
            InvalidInput: names `limit` or `cursor`.
        """
        check_limit(limit, MAX_PAGE_SIZE)
        queues = [endpoint_id] if endpoint_id else self._queues(tenant)
        states = [wanted.state] if wanted.state else list(DeliveryState)
        low = self._bound(wanted.since) if wanted.since else f"[{self._keys.delivery('dlv_')}"
        high = self._bound(wanted.until) if wanted.until else f"({self._keys.delivery('dlv_~')}"
        if cursor:
            below = read_cursor(cursor, DELIVERY_ID.pattern)
            high = min(high, f"({self._keys.delivery(below)}", key=lambda bound: bound[1:])
        streams = [
            falling(self._redis, self._keys.deliveries_in_state(queue, state), high, low)
            for queue in queues
            for state in states
        ]
        candidates = (self._keys.id_of(key) for key in heapq.merge(*streams, reverse=True))
        page: list[Delivery] = []
        while chunk := list(islice(candidates, max(limit, 100))):
            for delivery in self._read(tenant, chunk):
                if wanted.matches(delivery):
                    page.append(delivery)
                    if len(page) == limit:
                        return Page(page, write_cursor(delivery.id))
        return Page(page, None)

    def ids_since(self, queue_id: str, state: DeliveryState, since: datetime) -> Iterator[str]:
        """Ids of a receiver queue's deliveries in one state, of events since `since`, the oldest first."""
        low = self._bound(since)
        while True:
            members: Any = self._redis.zrangebylex(
                self._keys.deliveries_in_state(queue_id, state), low, "+", start=0, num=1000
            )
            yield from map(self._keys.id_of, members)
            if len(members) < 1000:
                return
            low = f"({members[-1]}"

    def _bound(self, at: datetime) -> str:
        ms = max(0, round(at.timestamp() * 1000))
        ulid = ULID.from_bytes(ms.to_bytes(6, "big") + bytes(10))
        return f"[{self._keys.delivery(f'dlv_{ulid}')}"

    def _queues(self, tenant: str) -> Sequence[str]:
        endpoints: Any = self._redis.smembers(self._keys.endpoints(tenant))
        # The queues of `webhook_url`s and of deleted endpoints.
        others: Any = self._redis.zrange(self._keys.origin_queues(tenant), 0, -1)
        return [self._keys.id_of(key) for key in dict.fromkeys((*endpoints, *others))]

    def _read(self, tenant: str, ids: Iterable[str]) -> list[Delivery]:
        ids = list(ids)
        pipe = self._redis.pipeline(transaction=False)
        for delivery_id in ids:
            pipe.hmget(self._keys.delivery(delivery_id), FIELDS)
        records = [
            {name: value for name, value in zip(FIELDS, values, strict=True) if value is not None}
            for values in pipe.execute()
        ]
        urls = self._urls({record["line"] for record in records if "line" in record and "url" not in record})
        return [
            decode_delivery(delivery_id, record, urls.get(record["line"], ""))
            for delivery_id, record in zip(ids, records, strict=True)
            if record and record["owner"] == tenant
        ]

    def _urls(self, queues: Iterable[str]) -> dict[str, str]:
        queues = list(queues)
        pipe = self._redis.pipeline(transaction=False)
        for queue in queues:
            pipe.hget(queue, "url")
        return {queue: url for queue, url in zip(queues, pipe.execute(), strict=True) if url}
