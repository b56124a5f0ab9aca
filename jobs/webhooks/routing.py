"""Finds the targets of an event: matching endpoints of the tenant, and the addresses of jobs, batches and schedules."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from redis import Redis

from jobs.events.outbox import PING, Event, matches, wants_jobs
from jobs.foundation.ids import batch_of
from jobs.foundation.redis_keys import Keys
from jobs.webhooks.delivery_models import DeliveryState

BATCH_DEFAULT = ("batch.*",)
"""The default filter of a batch's `webhook_url`."""


@dataclass(frozen=True)
class Target:
    """One address of an event.

    Attributes:
        queue_id: id of the receiver queue in which the delivery waits: that of an endpoint or of an origin.
        queue_record: the record of an origin's receiver queue, which its first delivery creates.
        url: the address; None for an endpoint, whose record has it.
        digest_s: shortest time between two digests, in seconds; 0: each event is sent on its own.
    """

    queue_id: str
    queue_record: dict[str, str] | None = None
    url: str | None = None
    digest_s: float = 0

    @property
    def address(self) -> dict[str, str]:
        """The fields of a delivery that hold its address."""
        return {"url": self.url} if self.url else {"endpoint": self.queue_id}

    def delivery_id(self, ulid: str) -> str:
        """The id of an event's delivery to this address: the same in every outbox reader."""
        digest = hashlib.sha256(f"{self.queue_id}\0{self.url or ''}".encode()).hexdigest()
        return f"dlv_{ulid}-{digest[:10]}"


@dataclass(frozen=True)
class WebhookPreference:
    """Which events a batch sends, and where."""

    url: str | None
    filters: tuple[str, ...]
    digest_s: float
    defaults: dict[str, Any]


class EventRouter:
    """Finds the targets of events.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    def targets(self, event: Event) -> list[Target]:
        """The event's targets, without duplicates."""
        kind = event.type.partition(".")[0]
        if event.only is not None:
            return [Target(event.only)]
        if event.type == PING:
            return []
        if kind == "job":
            return self._job_targets(event)
        if kind == "batch":
            return self._batch_targets(event)
        if kind == "schedule":
            return self._run_targets(event)
        tenants = [event.tenant] if event.tenant else sorted(map(str, self._redis.smembers(self._keys.tenants)))
        endpoints = self._endpoints(tenants, event.type)
        return [target for target in endpoints if target.queue_id != event.subject]

    def _job_targets(self, event: Event) -> list[Target]:
        batch_id = batch_of(event.subject)
        preference = self._preference(batch_id) if batch_id else None
        record = json.loads(event.data)
        spec = json.loads(record["spec"])
        own_url = spec.get("webhook_url") or (preference.defaults.get("webhook_url") if preference else None)
        targets = [self._origin(event.tenant, own_url)] if own_url else []
        if preference is None:
            return targets + self._endpoints([event.tenant], event.type)
        if not matches(preference.filters, event.type):
            return targets
        if preference.url is not None and preference.url != own_url:
            targets.append(self._origin(event.tenant, preference.url, preference.digest_s))
        return targets + self._endpoints([event.tenant], event.type, preference.digest_s)

    def _batch_targets(self, event: Event) -> list[Target]:
        preference = self._preference(event.subject)
        wanted = matches(preference.filters, event.type)
        targets = [self._origin(event.tenant, preference.url)] if wanted and preference.url else []
        return targets + self._endpoints([event.tenant], event.type)

    def _run_targets(self, event: Event) -> list[Target]:
        schedule = json.loads(event.data)["schedule"]
        answer: Any = self._redis.hmget(schedule, ["webhook_url", "webhook_events"])
        url, filters = answer
        wanted = url and (not filters or matches(json.loads(filters), event.type))
        targets = [self._origin(event.tenant, url)] if wanted else []
        return targets + self._endpoints([event.tenant], event.type)

    def _preference(self, batch_id: str) -> WebhookPreference:
        answer: Any = self._redis.hmget(
            self._keys.batch(batch_id), ["webhook_url", "webhook_events", "webhook_digest_s", "defaults"]
        )
        url, events, digest_s, defaults = answer
        return WebhookPreference(
            url or None,
            tuple(json.loads(events)) if events else BATCH_DEFAULT,
            float(digest_s or 0),
            json.loads(defaults) if defaults else {},
        )

    def _endpoints(self, tenants: Iterable[str], event_type: str, digest_s: float = 0) -> list[Target]:
        pipe = self._redis.pipeline(transaction=False)
        for tenant in tenants:
            pipe.smembers(self._keys.endpoints(tenant))
        queues = sorted({queue for members in pipe.execute() for queue in members})
        pipe = self._redis.pipeline(transaction=False)
        for queue in queues:
            pipe.hmget(queue, ["events", "enabled"])
        return [
            Target(self._keys.id_of(queue), digest_s=digest_s)
            for queue, (events, enabled) in zip(queues, pipe.execute(), strict=True)
            if enabled == "1" and matches(json.loads(events), event_type)
        ]

    def _origin(self, tenant: str, url: str, digest_s: float = 0) -> Target:
        """The target for a URL. All URLs of one tenant and origin share a receiver queue: they fail together."""
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}".lower()
        queue_id = "org_" + hashlib.sha256(f"{tenant}\0{origin}".encode()).hexdigest()[:24]
        record = {
            **queue_record(self._keys, queue_id, tenant),
            "origin": origin,
            "known": self._keys.origin_queues(tenant),
            "enabled": "1",
        }
        return Target(queue_id, record, url, digest_s)


def queue_record(keys: Keys, queue_id: str, tenant: str) -> dict[str, str]:
    """The fields that every receiver queue has: its owner and the keys that scripts use with it."""
    return {
        "id": queue_id,
        "owner": tenant,
        "tenant": keys.tenant(tenant),
        "listeners": keys.job_event_endpoints(tenant),
        "due": keys.receiver_queue_due(queue_id),
        "totals": keys.deliveries("totals"),
        "breakers": keys.deliveries("breakers"),
        **{f"i:{state}": keys.deliveries_in_state(queue_id, state) for state in DeliveryState},
    }


def batch_fields(webhook_url: str | None, events: Iterable[str] | None, digest_s: float | None) -> dict[str, str]:
    """The fields of a batch's record that hold its webhook preferences. `events` and `digest_s` are valid.

    The field `tell` makes the scripts put the events of the batch's jobs into the outbox.
    """
    filters = list(events or BATCH_DEFAULT)
    fields = {"webhook_events": json.dumps(filters), "tell": "1" if wants_jobs(filters) else "0"}
    if webhook_url:
        fields["webhook_url"] = webhook_url
    if digest_s:
        fields["webhook_digest_s"] = str(digest_s)
    return fields
