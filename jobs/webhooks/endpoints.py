"""Endpoints: where a tenant's events are told. Each change is one script, which also decides whether jobs must tell."""

import json
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from redis import Redis

from jobs.events.outbox import PING, Event, Outbox, check_filters, wants_jobs
from jobs.foundation.errors import Conflict, InvalidInput, NotFound
from jobs.foundation.ids import new_id
from jobs.foundation.redis_keys import Keys
from jobs.foundation.secret_box import Seal
from jobs.foundation.settings import Settings
from jobs.foundation.webhook_secrets import new_secret, rotate
from jobs.foundation.webhook_url_policy import checked_webhook_url
from jobs.plan import lua_loader
from jobs.records.job_codec import moment
from jobs.webhooks.deliveries import Deliveries
from jobs.webhooks.delivery_models import TRANSITIONS, DeliveryState
from jobs.webhooks.delivery_reader import DeliveryLog
from jobs.webhooks.endpoint_models import (
    Endpoint,
    EndpointChange,
    EndpointFields,
    NewEndpoint,
    check_headers,
    decode_endpoint,
    open_headers,
    seal_headers,
)
from jobs.webhooks.routing import Target, queue_record

MOST_ENDPOINTS = 50
"""Of one tenant."""
MOST_AT_ONCE = 200
ENDPOINT_ID = re.compile(r"ep_[0-9A-HJKMNP-TV-Z]{26}")


class Endpoints:
    """The endpoints of all tenants.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
        settings: which addresses may be told.
        seal: for secrets and headers at rest.
        deliveries: for `recover`.
        clock_ms: milliseconds since 1970.
    """

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        settings: Settings,
        seal: Seal,
        deliveries: Deliveries,
        *,
        clock_ms: Callable[[], int] = lambda: round(time.time() * 1000),
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._settings = settings
        self._seal = seal
        self._deliveries = deliveries
        self._log = DeliveryLog(redis, keys)
        self._outbox = Outbox(redis, keys)
        self._clock_ms = clock_ms
        self._listed_ms = round(2 * settings.retention_s * 1000)  # as long as the scripts keep an index
        self._write = lua_loader.load(redis, "deliveries/write_endpoint", TRANSITIONS)

    def create(self, tenant: str, wanted: EndpointFields) -> NewEndpoint:
        """Make an endpoint. Its secret is shown this once.

        Raises:
            InvalidInput: naming the fields that break a rule.
            Conflict: the tenant has as many as it may have.
        """
        endpoint_id, secret, now = new_id("ep"), new_secret(), str(self._clock_ms())
        fields = {
            **queue_record(self._keys, endpoint_id, tenant),
            "endpoint": "1",
            "secret": self._seal.seal(secret),
            "created": now,
            **self._stored(wanted, dict(wanted.headers)),
        }
        if self._do("create", tenant, endpoint_id, fields) == "full":
            raise Conflict(f"a tenant has at most {MOST_ENDPOINTS} endpoints: delete one first")
        return NewEndpoint(**dict(self.get(tenant, endpoint_id)), secret=secret)

    def get(self, tenant: str, endpoint_id: str) -> Endpoint:
        """One endpoint.

        Raises:
            NotFound: no endpoint of that id is this tenant's.
        """
        return self._shown(endpoint_id, self._record(tenant, endpoint_id))

    def all_of(self, tenant: str) -> list[Endpoint]:
        """All of a tenant's endpoints, the newest first."""
        lines: Any = self._redis.smembers(self._keys.endpoints(tenant))
        ids = sorted(map(self._keys.id_of, lines), reverse=True)
        pipe = self._redis.pipeline(transaction=False)
        for endpoint_id in ids:
            pipe.hgetall(self._keys.line(endpoint_id))
        return [self._shown(one, record) for one, record in zip(ids, pipe.execute(), strict=True) if record]

    def change(self, tenant: str, endpoint_id: str, wanted: EndpointChange) -> Endpoint:
        """Change what is given. Enabling one that was disabled forgives its failures.

        Raises:
            NotFound: no endpoint of that id is this tenant's.
            InvalidInput: naming the fields that break a rule.
        """
        record = self._record(tenant, endpoint_id)
        headers = open_headers(record, self._seal) if wanted.headers is not None else {}
        if wanted.headers is not None:
            check_headers(wanted.headers)
            for name, value in wanted.headers.items():
                headers = {k: v for k, v in headers.items() if k.lower() != name.lower()}
                if value is not None:
                    headers[name] = value
        given = wanted.model_fields_set
        drop = ["rate"] if "rate_limit" in given and wanted.rate_limit is None else []
        if self._do("change", tenant, endpoint_id, self._stored(wanted, headers), drop) == "missing":
            raise _no(endpoint_id)
        return self.get(tenant, endpoint_id)

    def delete(self, tenant: str, endpoint_id: str) -> None:
        """Delete an endpoint. What waits for it is exhausted; its deliveries can be looked at for a while.

        Raises:
            NotFound: no endpoint of that id is this tenant's.
        """
        self._record(tenant, endpoint_id)
        # Noted before it goes: a process that dies in between costs nobody the sight of what was told.
        known = self._keys.origins(tenant)
        pipe = self._redis.pipeline()
        pipe.zadd(known, {self._keys.line(endpoint_id): self._clock_ms()})
        pipe.pexpire(known, self._listed_ms)
        pipe.execute()
        if self._do("delete", tenant, endpoint_id, {}, ["old_secrets"]) == "missing":
            raise _no(endpoint_id)

    def rotate_secret(self, tenant: str, endpoint_id: str) -> NewEndpoint:
        """A new secret, shown this once; the old one signs beside it for 24 hours.

        Raises:
            NotFound: no endpoint of that id is this tenant's.
            Conflict: too many secrets sign already.
        """
        record = self._record(tenant, endpoint_id)
        secret = rotate(self._redis, self._keys.line(endpoint_id), self._seal, self._clock_ms())
        return NewEndpoint(**dict(self._shown(endpoint_id, record)), secret=secret)

    def ping(self, tenant: str, endpoint_id: str) -> tuple[str, str]:
        """Send a `ping` to this endpoint, whatever its filters.

        Returns:
            The ids of the event and of its delivery, which can be read in a moment.

        Raises:
            NotFound: no endpoint of that id is this tenant's.
            Conflict: it is disabled.
        """
        if self._record(tenant, endpoint_id)["enabled"] != "1":
            raise Conflict("the endpoint is disabled: enable it first")
        now = self._clock_ms()
        data = json.dumps({"endpoint_id": endpoint_id, "message": "a test from Retouch"})
        entry = self._outbox.put(PING, tenant=tenant, subject=endpoint_id, data=data, at_ms=now, only=endpoint_id)
        event = Event(entry, PING, tenant, endpoint_id, moment(now), data)
        return event.id, Target(endpoint_id).delivery_id(event.ulid)

    def recover(self, tenant: str, endpoint_id: str, since: datetime, states: Sequence[DeliveryState]) -> int:
        """Try again now all deliveries of events since a moment that are in one of these states.

        Returns:
            How many.

        Raises:
            NotFound: no endpoint of that id is this tenant's.
            Conflict: it is disabled.
            InvalidInput: a state of which nothing can be tried again.
        """
        if DeliveryState.SENDING in states or not states:
            raise InvalidInput.of("states", "of waiting, succeeded and exhausted, one or more")
        if self._record(tenant, endpoint_id)["enabled"] != "1":
            raise Conflict("the endpoint is disabled: enable it first")
        # Each state's ids are read before any is put forward: what is put forward changes its state.
        found = [list(self._log.ids_since(endpoint_id, state, since)) for state in dict.fromkeys(states)]
        return sum(
            self._deliveries.redeliver_many(ids[start : start + MOST_AT_ONCE], [state])
            for state, ids in zip(dict.fromkeys(states), found, strict=True)
            for start in range(0, len(ids), MOST_AT_ONCE)
        )

    def data_of(self, event: Event) -> Any:
        """The `data` of an event about an endpoint: the endpoint as the API shows it."""
        shown = self.get(event.tenant, event.subject).model_dump(mode="json")
        return {**shown, "disabled_reason": json.loads(event.data)["why"]}

    def _record(self, tenant: str, endpoint_id: str) -> dict[str, str]:
        if not ENDPOINT_ID.fullmatch(endpoint_id):
            raise _no(endpoint_id)
        record: Any = self._redis.hgetall(self._keys.line(endpoint_id))
        if not record or record["owner"] != tenant or record.get("deleted") == "1":
            raise _no(endpoint_id)
        return dict(record)

    def _shown(self, endpoint_id: str, record: dict[str, str]) -> Endpoint:
        waiting: Any = self._redis.zcard(self._keys.line_due(endpoint_id))
        return decode_endpoint(endpoint_id, record, waiting, self._clock_ms())

    def _stored(self, wanted: EndpointFields | EndpointChange, headers: dict[str, str]) -> dict[str, str]:
        """The given fields as they are stored, checked."""
        fields = {"updated": str(self._clock_ms())}
        if wanted.url is not None:
            fields["url"] = checked_webhook_url(wanted.url, self._settings)
        if wanted.description is not None:
            fields["description"] = wanted.description
        if wanted.events is not None:
            check_filters(wanted.events)
            fields["events"] = json.dumps(list(dict.fromkeys(wanted.events)))
            fields["jobs"] = "1" if wants_jobs(wanted.events) else "0"
        if wanted.headers is not None:
            check_headers(headers)
            fields["headers"] = seal_headers(headers, self._seal)
            fields["header_names"] = json.dumps(sorted(headers))
        if wanted.rate_limit is not None:
            fields["rate"] = repr(wanted.rate_limit)
        if wanted.enabled is not None:
            fields["enabled"] = "1" if wanted.enabled else "0"
        return fields

    def _do(self, act: str, tenant: str, endpoint_id: str, fields: dict[str, str], drop: Sequence[str] = ()) -> str:
        keys = [*self._keys.telling, self._keys.line(endpoint_id), self._keys.endpoints(tenant)]
        order = json.dumps({"set": fields, "drop": list(drop)})
        # Lease and retention play no part in it.
        return str(self._write(keys=keys, args=[self._clock_ms(), 0, 0, 30 * 86_400_000, act, MOST_ENDPOINTS, order]))


def _no(endpoint_id: str) -> NotFound:
    return NotFound(f"there is no endpoint {endpoint_id[:64]}")
