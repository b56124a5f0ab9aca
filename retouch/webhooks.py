"""The client's calls for webhook endpoints and deliveries."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from pydantic import Field

from retouch.records import Record
from retouch.transport import Transport, entries_of, read_record

ENDED = frozenset({"succeeded", "exhausted"})
"""States of a delivery that only a redelivery changes."""


class Endpoint(Record):
    """A registered receiver of events.

    Attributes:
        events: filters: an event type, `job.*` or `*`.
        headers: header names with masked values.
        rate_limit: maximum deliveries per second; None = no limit.
        secret: the signing secret, only right after it was created or replaced.
    """

    id: str
    url: str
    description: str = ""
    events: list[str] = Field(default_factory=list)
    headers: dict[str, str] = Field(default_factory=dict)
    rate_limit: float | None = None
    enabled: bool = True
    disabled_reason: str | None = None
    disabled_at: datetime | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    waiting: int = 0
    last_success_at: datetime | None = None
    failing_since: datetime | None = None
    resting_until: datetime | None = None
    secret: str | None = Field(default=None, repr=False)


class Try(Record):
    """One request to a receiver; `took_ms` in milliseconds."""

    number: int
    at: datetime
    took_ms: int | None = None
    status: int | None = None
    answer: str = ""
    error: str | None = None


class Delivery(Record):
    """The delivery of one event to one URL."""

    id: str
    event_id: str
    event_type: str
    subject: str
    endpoint_id: str | None = None
    url: str
    state: str
    reason: str | None = None
    created_at: datetime
    next_try_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: list[Try] = Field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether there are no more automatic tries."""
        return self.state in ENDED


class Webhooks:
    """The webhooks of one service; use it as `Client.webhooks`.

    Every method can raise `ProblemError` (refused), `Unreachable` (no answer) and `BadAnswer` (not from Retouch).
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, url: str, **fields: Any) -> Endpoint:
        """Create an endpoint. Only this answer contains its `secret`.

        Args:
            url: the receiver's URL.
            fields: `events`, `description`, `headers`, `rate_limit`, `enabled`.
        """
        return read_record(Endpoint, self._call("POST", "/v1/webhooks", json={"url": url, **fields}))

    def list(self) -> Sequence[Endpoint]:
        """All endpoints, newest first."""
        page = self._call("GET", "/v1/webhooks", repeatable=True)
        return [read_record(Endpoint, entry) for entry in entries_of(page)]

    def get(self, endpoint_id: str) -> Endpoint:
        """The current state of an endpoint."""
        return read_record(Endpoint, self._call("GET", _path(endpoint_id), repeatable=True))

    def update(self, endpoint_id: str, **fields: Any) -> Endpoint:
        """Change the passed fields; a header with the value None is removed."""
        return read_record(Endpoint, self._call("PATCH", _path(endpoint_id), repeatable=True, json=fields))

    def delete(self, endpoint_id: str) -> None:
        """Delete an endpoint. Its waiting deliveries are not sent."""
        self._transport.call("DELETE", _path(endpoint_id), repeatable=False)

    def test(self, endpoint_id: str) -> str:
        """Send a `ping`; returns the delivery's id. The delivery can be read a moment later."""
        return str(self._call("POST", _path(endpoint_id, "test"))["delivery_id"])

    def rotate_secret(self, endpoint_id: str) -> Endpoint:
        """Replace the secret. Only this answer contains the new one. For 24 hours both secrets sign each delivery."""
        return read_record(Endpoint, self._call("POST", _path(endpoint_id, "rotate-secret")))

    def recover(self, endpoint_id: str, since: datetime, states: Sequence[str] | None = None) -> int:
        """Redeliver all events since a time that have not arrived; returns the number of deliveries.

        Args:
            endpoint_id: the endpoint.
            since: a time with a UTC offset.
            states: states of the deliveries. Default: `exhausted` and `waiting`.
        """
        body: dict[str, Any] = {"since": since.isoformat(), **({"states": list(states)} if states else {})}
        return int(self._call("POST", _path(endpoint_id, "recover"), json=body)["count"])

    def deliveries(
        self, endpoint_id: str | None = None, *, limit: int | None = None, **query: Any
    ) -> Iterator[Delivery]:
        """Deliveries, newest events first. Each page is requested when it is needed.

        Args:
            endpoint_id: only this endpoint's. Default: all, including those to the `webhook_url` of jobs and batches.
            limit: maximum number of deliveries.
            query: `state`, `event_type`, `subject`, `since`, `until`.
        """
        path = _path(endpoint_id, "deliveries") if endpoint_id else "/v1/deliveries"
        params = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in query.items()
            if value is not None
        }
        return (read_record(Delivery, entry) for entry in self._transport.list_pages(path, limit=limit, params=params))

    def delivery(self, delivery_id: str) -> Delivery:
        """The current state of a delivery, with the request body as `payload`."""
        return read_record(
            Delivery, self._call("GET", f"/v1/deliveries/{quote(delivery_id, safe='')}", repeatable=True)
        )

    def redeliver(self, delivery_id: str) -> Delivery:
        """Send a delivery again, now."""
        return read_record(Delivery, self._call("POST", f"/v1/deliveries/{quote(delivery_id, safe='')}/redeliver"))

    def secret(self, *, rotate: bool = False) -> str:
        """The secret that signs events to the `webhook_url` of jobs and batches; `rotate` creates a new one."""
        if rotate:
            return str(self._call("POST", "/v1/webhook-secret/rotate")["secret"])
        return str(self._call("GET", "/v1/webhook-secret", repeatable=True)["secret"])

    def _call(self, method: str, path: str, *, repeatable: bool = False, **content: Any) -> dict[str, Any]:
        return self._transport.call_json(method, path, repeatable=repeatable, **content)


def _path(endpoint_id: str, action: str = "") -> str:
    return f"/v1/webhooks/{quote(endpoint_id, safe='')}{'/' if action else ''}{action}"
