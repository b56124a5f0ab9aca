"""Endpoints: where a tenant's events are sent. Each change is one script, which also updates the tenant's listeners."""

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
from jobs.foundation.secret_box import SecretBox
from jobs.foundation.settings import Settings
from jobs.foundation.values import moment
from jobs.foundation.webhook_secrets import new_secret, rotate
from jobs.foundation.webhook_url_policy import checked_webhook_url
from jobs.plan import lua_loader
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

MAX_ENDPOINTS = 50
"""Most endpoints of one tenant."""
RECOVER_BATCH_SIZE = 200
DAY_MS = 86_400_000
ENDPOINT_ID = re.compile(r"ep_[0-9A-HJKMNP-TV-Z]{26}")


class Endpoints:
    """The endpoints of all tenants.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
        settings: which addresses are allowed.
        secret_box: encrypts secrets and headers at rest.
        deliveries: retries deliveries for `recover`.
        clock_ms: milliseconds since 1970.
    """

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        settings: Settings,
        secret_box: SecretBox,
        deliveries: Deliveries,
        *,
        clock_ms: Callable[[], int] = lambda: round(time.time() * 1000),
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._settings = settings
        self._secret_box = secret_box
        self._deliveries = deliveries
        self._log = DeliveryLog(redis, keys)
        self._outbox = Outbox(redis, keys)
        self._clock_ms = clock_ms
        self._listed_ms = round(2 * settings.retention_s * 1000)  # the scripts keep an index as long
        self._write_script = lua_loader.load(redis, "deliveries/write_endpoint", TRANSITIONS)

    def create(self, tenant: str, wanted: EndpointFields) -> NewEndpoint:
        """Create an endpoint. Only this answer shows its secret.

        Raises:
            InvalidInput: names the invalid fields.
            Conflict: the tenant has `MAX_ENDPOINTS` endpoints.
        """
        endpoint_id, secret, now = new_id("ep"), new_secret(), str(self._clock_ms())
        fields = {
            **queue_record(self._keys, endpoint_id, tenant),
            "endpoint": "1",
            "secret": self._secret_box.encrypt(secret),
            "created": now,
            **self._stored(wanted, dict(wanted.headers)),
        }
        if self._write("create", tenant, endpoint_id, fields) == "full":
            raise Conflict(f"a tenant has at most {MAX_ENDPOINTS} endpoints: delete one first")
        return NewEndpoint(**dict(self.get(tenant, endpoint_id)), secret=secret)

    def get(self, tenant: str, endpoint_id: str) -> Endpoint:
        """One endpoint.

        Raises:
            NotFound: the tenant has no endpoint of that id.
        """
        return self._shown(endpoint_id, self._record(tenant, endpoint_id))

    def all_of(self, tenant: str) -> list[Endpoint]:
        """All of a tenant's endpoints, the newest first."""
        queues: Any = self._redis.smembers(self._keys.endpoints(tenant))
        ids = sorted(map(self._keys.id_of, queues), reverse=True)
        pipe = self._redis.pipeline(transaction=False)
        for endpoint_id in ids:
            pipe.hgetall(self._keys.receiver_queue(endpoint_id))
        return [
            self._shown(endpoint_id, record) for endpoint_id, record in zip(ids, pipe.execute(), strict=True) if record
        ]

    def change(self, tenant: str, endpoint_id: str, wanted: EndpointChange) -> Endpoint:
        """Change the given fields. Enabling a disabled endpoint resets its failures.

        Raises:
            NotFound: the tenant has no endpoint of that id.
            InvalidInput: names the invalid fields.
        """
        record = self._record(tenant, endpoint_id)
        headers = open_headers(record, self._secret_box) if wanted.headers is not None else {}
        if wanted.headers is not None:
            check_headers(wanted.headers)
            for name, value in wanted.headers.items():
                headers = {k: v for k, v in headers.items() if k.lower() != name.lower()}
                if value is not None:
                    headers[name] = value
        drops_rate = "rate_limit" in wanted.model_fields_set and wanted.rate_limit is None
        drop = ["rate"] if drops_rate else []
        if self._write("change", tenant, endpoint_id, self._stored(wanted, headers), drop) == "missing":
            raise _not_found(endpoint_id)
        return self.get(tenant, endpoint_id)

    def delete(self, tenant: str, endpoint_id: str) -> None:
        """Delete an endpoint. Its waiting deliveries become exhausted; all its deliveries can be read for some time.

        Raises:
            NotFound: the tenant has no endpoint of that id.
        """
        self._record(tenant, endpoint_id)
        # The index entry comes first: if this process dies in between, the deliveries can still be listed.
        known = self._keys.origin_queues(tenant)
        pipe = self._redis.pipeline()
        pipe.zadd(known, {self._keys.receiver_queue(endpoint_id): self._clock_ms()})
        pipe.pexpire(known, self._listed_ms)
        pipe.execute()
        if self._write("delete", tenant, endpoint_id, {}, ["old_secrets"]) == "missing":
            raise _not_found(endpoint_id)

    def rotate_secret(self, tenant: str, endpoint_id: str) -> NewEndpoint:
        """Replace the secret. Only this answer shows the new one; the old one also signs for 24 hours.

        Raises:
            NotFound: the tenant has no endpoint of that id.
            Conflict: too many old secrets still sign.
        """
        record = self._record(tenant, endpoint_id)
        secret = rotate(self._redis, self._keys.receiver_queue(endpoint_id), self._secret_box, self._clock_ms())
        return NewEndpoint(**dict(self._shown(endpoint_id, record)), secret=secret)

    def ping(self, tenant: str, endpoint_id: str) -> tuple[str, str]:
        """Send a `ping` to this endpoint, whatever its filters.

        Returns:
            The ids of the event and of its delivery. The delivery exists after the fan-out.

        Raises:
            NotFound: the tenant has no endpoint of that id.
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
        """Retry now all deliveries of events since `since` that are in one of these states.

        Returns:
            How many deliveries.

        Raises:
            NotFound: the tenant has no endpoint of that id.
            Conflict: it is disabled.
            InvalidInput: `states` is empty or contains `sending`.
        """
        if DeliveryState.SENDING in states or not states:
            raise InvalidInput.of("states", "needs one or more of waiting, succeeded and exhausted")
        if self._record(tenant, endpoint_id)["enabled"] != "1":
            raise Conflict("the endpoint is disabled: enable it first")
        # All ids are read first, because a retry changes the state of its delivery.
        ids_by_state = [list(self._log.ids_since(endpoint_id, state, since)) for state in dict.fromkeys(states)]
        return sum(
            self._deliveries.redeliver_many(ids[start : start + RECOVER_BATCH_SIZE], [state])
            for state, ids in zip(dict.fromkeys(states), ids_by_state, strict=True)
            for start in range(0, len(ids), RECOVER_BATCH_SIZE)
        )

    def data_of(self, event: Event) -> Any:
        """The `data` of an event about an endpoint: the endpoint as the API shows it."""
        shown = self.get(event.tenant, event.subject).model_dump(mode="json")
        return {**shown, "disabled_reason": json.loads(event.data)["why"]}

    def _record(self, tenant: str, endpoint_id: str) -> dict[str, str]:
        if not ENDPOINT_ID.fullmatch(endpoint_id):
            raise _not_found(endpoint_id)
        record: Any = self._redis.hgetall(self._keys.receiver_queue(endpoint_id))
        if not record or record["owner"] != tenant or record.get("deleted") == "1":
            raise _not_found(endpoint_id)
        return dict(record)

    def _shown(self, endpoint_id: str, record: dict[str, str]) -> Endpoint:
        waiting: Any = self._redis.zcard(self._keys.receiver_queue_due(endpoint_id))
        return decode_endpoint(endpoint_id, record, waiting, self._clock_ms())

    def _stored(self, wanted: EndpointFields | EndpointChange, headers: dict[str, str]) -> dict[str, str]:
        """Check the given fields and encode them for the record."""
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
            fields["headers"] = seal_headers(headers, self._secret_box)
            fields["header_names"] = json.dumps(sorted(headers))
        if wanted.rate_limit is not None:
            fields["rate"] = repr(wanted.rate_limit)
        if wanted.enabled is not None:
            fields["enabled"] = "1" if wanted.enabled else "0"
        return fields

    def _write(
        self, action: str, tenant: str, endpoint_id: str, fields: dict[str, str], drop: Sequence[str] = ()
    ) -> str:
        keys = [*self._keys.delivery_keys, self._keys.receiver_queue(endpoint_id), self._keys.endpoints(tenant)]
        command = json.dumps({"set": fields, "drop": list(drop)})
        # This script uses neither the lease nor the retention of succeeded deliveries.
        args: list[int | str] = [self._clock_ms(), 0, 0, 30 * DAY_MS, action, MAX_ENDPOINTS, command]
        return str(self._write_script(keys=keys, args=args))


def _not_found(endpoint_id: str) -> NotFound:
    return NotFound(f"there is no endpoint {endpoint_id[:64]}")
