"""Digests: one delivery for many job events of a batch."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from redis import Redis
from ulid import ULID

from jobs.events.outbox import JOB_DIGEST, Event
from jobs.foundation.ids import batch_of
from jobs.foundation.redis_keys import Keys
from jobs.foundation.values import moment, to_ms
from jobs.webhooks.delivery_scripts import DeliveryScripts
from jobs.webhooks.routing import Target

MAX_DIGEST_EVENTS = 100
MAX_DUE_DIGESTS = 20
"""How many digests one read returns at most."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Digest:
    """Job events of one batch that are sent together.

    Attributes:
        queue_id: id of the receiver queue.
        seq: number of digests before this one; it is the fence.
        every_ms: shortest time between two digests, in milliseconds.
        address: fields of the delivery that hold its address.
        items: `id`, `type`, `at` (ms) and `job` of each event.
        at: when the digest was read.
    """

    batch_id: str
    queue_id: str
    seq: int
    every_ms: int
    address: dict[str, str]
    items: tuple[dict[str, Any], ...]
    at: datetime

    @property
    def ulid(self) -> str:
        """A ULID that is the same in every outbox reader."""
        if not self.items:
            return str(ULID.from_timestamp(self.at.timestamp()))
        identity = f"{self.batch_id}\0{self.queue_id}\0{self.address.get('url', '')}\0{self.seq}"
        tail = hashlib.sha256(identity.encode()).digest()[:10]
        return str(ULID.from_bytes(int(self.items[0]["at"]).to_bytes(6, "big") + tail))

    @property
    def id(self) -> str:
        """The digest's `webhook-id`."""
        return f"evt_{self.ulid}"


class Digests:
    """The digests in one Redis or Valkey. Safe in any number of processes and threads at once.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
        scripts: the scripts about deliveries.
    """

    def __init__(self, redis: Redis, keys: Keys, scripts: DeliveryScripts) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = scripts

    def due(self) -> list[Digest]:
        """The digests that must be sent now."""
        all_digests = self._keys.deliveries("digests")
        due_keys: Any = self._redis.zrangebyscore(all_digests, "-inf", self._scripts.now_ms(), 0, MAX_DUE_DIGESTS)
        digests = []
        for key in due_keys:
            record: Any = self._redis.hgetall(key)
            if "batch" in record:
                digests.append(self._decode(record))
            else:
                # The record is lost and must not block the other digests. The next event writes it again; the
                # collected events are still in the list.
                log.error("deliveries.digest_lost", digest=key)
                self._redis.zrem(all_digests, key)
        return digests

    def _decode(self, record: dict[str, str]) -> Digest:
        items: Any = self._redis.lrange(
            self._keys.digest_list(record["batch"], record["line"]), 0, MAX_DIGEST_EVENTS - 1
        )
        return Digest(
            batch_id=record["batch"],
            queue_id=record["line"],
            seq=int(record.get("seq", 0)),
            every_ms=int(record["every"]),
            address={name: record[name] for name in ("url", "endpoint") if name in record},
            items=tuple(json.loads(item) for item in items),
            at=moment(self._scripts.now_ms()),
        )

    def send(self, digest: Digest, body: str) -> bool:
        """Make one delivery of a digest.

        Returns:
            False if another outbox reader has made it.
        """
        fields = {
            "event": digest.id,
            "type": JOB_DIGEST,
            "subject": digest.batch_id,
            "at": str(to_ms(digest.at)),
            "body": body,
            **digest.address,
        }
        target = Target(digest.queue_id, url=digest.address.get("url"))
        keys = [
            self._keys.delivery(target.delivery_id(digest.ulid)),
            self._keys.receiver_queue(digest.queue_id),
            self._keys.digest(digest.batch_id, digest.queue_id),
            self._keys.digest_list(digest.batch_id, digest.queue_id),
            self._keys.deliveries("digests"),
        ]
        args = [digest.seq, len(digest.items), json.dumps(fields), digest.every_ms]
        return bool(self._scripts.run("send_digest", keys, args))


def digest_entry(keys: Keys, event: Event, target: Target) -> dict[str, Any] | bool:
    """What `fan_out.lua` needs to collect an event in a digest; False for an event that is sent on its own."""
    batch_id = batch_of(event.subject)
    if not target.digest_s or batch_id is None:
        return False
    item = {"id": event.id, "type": event.type, "at": to_ms(event.at), "job": event.subject}
    every_ms = int(target.digest_s * 1000)
    return {
        "due": keys.deliveries("digests"),
        "key": keys.digest(batch_id, target.queue_id),
        "list": keys.digest_list(batch_id, target.queue_id),
        "item": json.dumps(item),
        "every_ms": every_ms,
        "fields": {"batch": batch_id, "line": target.queue_id, "every": str(every_ms), **target.address},
    }
