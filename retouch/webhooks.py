"""Webhooks through the client: endpoints, what was told to them, and telling it again."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import Field, ValidationError

from retouch.errors import BadAnswer
from retouch.records import Record
from retouch.transport import Transport, read_json

_PAGE = 100
ENDED = frozenset({"succeeded", "exhausted"})
"""States of a delivery that only a redelivery changes."""


class Endpoint(Record):
    """Where events are told.

    Attributes:
        events: filters: a type, `job.*` or `*`.
        headers: names, and a mask instead of each value.
        rate_limit: most deliveries a second.
        secret: when it was just made or replaced; never again.
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
    """One telling of one event to one address."""

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
        """Whether nothing more will be tried by itself."""
        return self.state in ENDED


R = TypeVar("R", bound=Record)


class Webhooks:
    """The webhooks of one service, as `Client.webhooks`.

    Every method may raise `ProblemError` (refused), `Unreachable` (no answer) and `BadAnswer` (not Retouch's answer).
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, url: str, **fields: Any) -> Endpoint:
        """Make an endpoint; its `secret` is told this once.

        Args:
            url: where to.
            fields: `events`, `description`, `headers`, `rate_limit`, `enabled`.
        """
        return _read(Endpoint, self._call("POST", "/v1/webhooks", json={"url": url, **fields}))

    def list(self) -> Sequence[Endpoint]:
        """All endpoints, newest first."""
        page = self._call("GET", "/v1/webhooks", repeatable=True)
        return [_read(Endpoint, entry) for entry in _members(page)]

    def get(self, endpoint_id: str) -> Endpoint:
        """The endpoint as it is now."""
        return _read(Endpoint, self._call("GET", _path(endpoint_id), repeatable=True))

    def update(self, endpoint_id: str, **fields: Any) -> Endpoint:
        """Change what is given; a header that is None goes."""
        return _read(Endpoint, self._call("PATCH", _path(endpoint_id), repeatable=True, json=fields))

    def delete(self, endpoint_id: str) -> None:
        """Delete an endpoint; what waits for it is told no more."""
        self._transport.call("DELETE", _path(endpoint_id), repeatable=False)

    def test(self, endpoint_id: str) -> str:
        """Send a `ping`; the id of its delivery, which can be read in a moment."""
        return str(self._call("POST", _path(endpoint_id, "test"))["delivery_id"])

    def rotate_secret(self, endpoint_id: str) -> Endpoint:
        """Replace the secret; the new one is told this once, and the old one signs beside it for 24 hours."""
        return _read(Endpoint, self._call("POST", _path(endpoint_id, "rotate-secret")))

    def recover(self, endpoint_id: str, since: datetime, states: Sequence[str] | None = None) -> int:
        """Tell again all that has not arrived since a time, which has its offset; how many deliveries that is."""
        body: dict[str, Any] = {"since": since.isoformat(), **({"states": list(states)} if states else {})}
        return int(self._call("POST", _path(endpoint_id, "recover"), json=body)["count"])

    def deliveries(
        self, endpoint_id: str | None = None, *, limit: int | None = None, **query: Any
    ) -> Iterator[Delivery]:
        """Deliveries, those of the newest events first, fetched a page at a time; at most `limit` of them.

        Args:
            endpoint_id: of one endpoint; of all, and of what jobs and batches named, where absent.
            limit: most of them.
            query: `state`, `event_type`, `subject`, `since`, `until`.
        """
        path = _path(endpoint_id, "deliveries") if endpoint_id else "/v1/deliveries"
        params = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in query.items()
            if value is not None
        }
        left = limit
        while left is None or left > 0:
            params["limit"] = _PAGE if left is None else min(_PAGE, left)
            page = self._call("GET", path, repeatable=True, params=params)
            data = _members(page)
            yield from (_read(Delivery, entry) for entry in data)
            cursor = page.get("next_cursor")
            if not cursor:
                return
            params["cursor"] = cursor
            left = None if left is None else left - len(data)

    def delivery(self, delivery_id: str) -> Delivery:
        """The delivery as it is now; its `payload` is what it sends."""
        return _read(Delivery, self._call("GET", f"/v1/deliveries/{quote(delivery_id, safe='')}", repeatable=True))

    def redeliver(self, delivery_id: str) -> Delivery:
        """Tell it again, now."""
        return _read(Delivery, self._call("POST", f"/v1/deliveries/{quote(delivery_id, safe='')}/redeliver"))

    def secret(self, *, rotate: bool = False) -> str:
        """What signs the events sent to a job's or a batch's `webhook_url`; with `rotate` a new one."""
        if rotate:
            return str(self._call("POST", "/v1/webhook-secret/rotate")["secret"])
        return str(self._call("GET", "/v1/webhook-secret", repeatable=True)["secret"])

    def _call(self, method: str, path: str, *, repeatable: bool = False, **content: Any) -> dict[str, Any]:
        body = read_json(self._transport.call(method, path, repeatable=repeatable, **content))
        if not isinstance(body, dict):
            raise BadAnswer(f"{path} was answered with something that is not Retouch's")
        return body


def _path(endpoint_id: str, action: str = "") -> str:
    return f"/v1/webhooks/{quote(endpoint_id, safe='')}{'/' if action else ''}{action}"


def _members(page: Mapping[str, Any]) -> Sequence[Any]:
    data = page.get("data")
    if not isinstance(data, list):
        raise BadAnswer("the service answered with a list that has no `data`")
    return data


def _read(kind: type[R], body: object) -> R:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadAnswer(f"the service's {kind.__name__.lower()} cannot be read: {where}: {first['msg']}") from error
