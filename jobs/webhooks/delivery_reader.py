"""Reading and listing deliveries. It changes nothing."""

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

MOST_A_PAGE = 200
DELIVERY_ID = re.compile(r"dlv_[0-9A-HJKMNP-TV-Z]{26}-[0-9a-f]{10}")
FIELDS = (
    *("owner", "event", "type", "subject", "endpoint", "url", "state", "why", "at", "next", "finished", "log"),
    "line",
)


@dataclass(frozen=True)
class DeliveryFilter:
    """Which deliveries; None does not ask.

    Attributes:
        event_type: exactly this type.
        subject: id of what the events are about: a job's, a batch's.
        since, until: moments of the events, the first included, the second not.
    """

    state: DeliveryState | None = None
    event_type: str | None = None
    subject: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def takes(self, delivery: Delivery) -> bool:
        """Whether it fits."""
        return (
            (self.state is None or delivery.state is self.state)
            and (self.event_type is None or delivery.event_type == self.event_type)
            and (self.subject is None or delivery.subject == self.subject)
        )


class DeliveryLog:
    """The deliveries, read from Redis.

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
            NotFound: no delivery of that id is this tenant's (it may have expired).
        """
        found = self._read(tenant, [delivery_id]) if DELIVERY_ID.fullmatch(delivery_id) else []
        if not found:
            raise NotFound(f"there is no delivery {delivery_id[:64]}")
        return found[0]

    def payload(self, tenant: str, delivery_id: str) -> Any:
        """What the delivery sends.

        Raises:
            NotFound: no delivery of that id is this tenant's.
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
        """A tenant's deliveries, those of the newest events first.

        Args:
            tenant: whose.
            wanted: which.
            endpoint_id: only this endpoint's, which is the tenant's; else also those to the `webhook_url`s.
            limit: most of the page, 1 to 200.
            cursor: `next_cursor` of the page before.

        Raises:
            InvalidInput: naming `limit` or `cursor`.
        """
        check_limit(limit, MOST_A_PAGE)
        lines = [endpoint_id] if endpoint_id else self._lines(tenant)
        states = [wanted.state] if wanted.state else list(DeliveryState)
        low = self._bound(wanted.since) if wanted.since else f"[{self._keys.delivery('dlv_')}"
        high = self._bound(wanted.until) if wanted.until else f"({self._keys.delivery('dlv_~')}"
        if cursor:
            below = read_cursor(cursor, DELIVERY_ID.pattern)
            high = min(high, f"({self._keys.delivery(below)}", key=lambda bound: bound[1:])
        streams = [
            falling(self._redis, self._keys.deliveries_in_state(line, state), high, low)
            for line in lines
            for state in states
        ]
        candidates = (self._keys.id_of(key) for key in heapq.merge(*streams, reverse=True))
        found: list[Delivery] = []
        while chunk := list(islice(candidates, max(limit, 100))):
            for delivery in self._read(tenant, chunk):
                if wanted.takes(delivery):
                    found.append(delivery)
                    if len(found) == limit:
                        return Page(found, write_cursor(delivery.id))
        return Page(found, None)

    def ids_since(self, line_id: str, state: DeliveryState, since: datetime) -> Iterator[str]:
        """Ids of a line's deliveries in one state, of events since a moment, the oldest first."""
        low = self._bound(since)
        while True:
            members: Any = self._redis.zrangebylex(
                self._keys.deliveries_in_state(line_id, state), low, "+", start=0, num=1000
            )
            yield from map(self._keys.id_of, members)
            if len(members) < 1000:
                return
            low = f"({members[-1]}"

    def _bound(self, at: datetime) -> str:
        ms = max(0, round(at.timestamp() * 1000))
        ulid = ULID.from_bytes(ms.to_bytes(6, "big") + bytes(10))
        return f"[{self._keys.delivery(f'dlv_{ulid}')}"

    def _lines(self, tenant: str) -> Sequence[str]:
        endpoints: Any = self._redis.smembers(self._keys.endpoints(tenant))
        # Lines that only their deliveries are left of: `webhook_url`s, and endpoints that were deleted.
        others: Any = self._redis.zrange(self._keys.origin_queues(tenant), 0, -1)
        return [self._keys.id_of(key) for key in dict.fromkeys((*endpoints, *others))]

    def _read(self, tenant: str, ids: Iterable[str]) -> list[Delivery]:
        ids = list(ids)
        pipe = self._redis.pipeline(transaction=False)
        for one in ids:
            pipe.hmget(self._keys.delivery(one), FIELDS)
        records = [
            {name: value for name, value in zip(FIELDS, values, strict=True) if value is not None}
            for values in pipe.execute()
        ]
        urls = self._urls({record["line"] for record in records if "line" in record and "url" not in record})
        return [
            decode_delivery(one, record, urls.get(record["line"], ""))
            for one, record in zip(ids, records, strict=True)
            if record and record["owner"] == tenant
        ]

    def _urls(self, lines: Iterable[str]) -> dict[str, str]:
        lines = list(lines)
        pipe = self._redis.pipeline(transaction=False)
        for line in lines:
            pipe.hget(line, "url")
        return {line: url for line, url in zip(lines, pipe.execute(), strict=True) if url}
