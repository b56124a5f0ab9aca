"""Models of an endpoint: as it is submitted, stored and shown by the API."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from jobs.foundation.errors import FieldError, InvalidInput
from jobs.foundation.secret_box import SecretBox
from jobs.foundation.values import moment
from jobs.records.job_models import Moment, Record

MASK = "********"
"""The text that replaces a header's value when an endpoint is shown."""
MAX_HEADERS = 16
TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
RESERVED_HEADERS = frozenset(
    {"accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "host"}
    | {"keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"}
    | {"transfer-encoding", "upgrade", "user-agent"}
)
"""Headers that only Retouch sets."""

Url = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
Description = Annotated[str, StringConstraints(max_length=256)]
Rate = Annotated[float, Field(ge=0.01, le=1000)]


class EndpointFields(Record):
    """The fields of a new endpoint.

    Attributes:
        events: filters: a type, a wildcard such as `job.*`, or `*`.
        headers: sent with every delivery.
        rate_limit: most deliveries per second; None: no limit.
    """

    url: Url
    description: Description = ""
    events: list[str] = Field(default_factory=lambda: ["*"])
    headers: dict[str, str] = Field(default_factory=dict)
    rate_limit: Rate | None = None
    enabled: bool = True


class EndpointChange(Record):
    """A change of an endpoint. Absent fields stay as they are. A header with the value null is removed, others stay."""

    url: Url | None = None
    description: Description | None = None
    events: list[str] | None = None
    headers: dict[str, str | None] | None = None
    rate_limit: Rate | None = None
    enabled: bool | None = None


class Endpoint(Record):
    """An endpoint as the API shows it.

    Attributes:
        headers: names; a mask replaces each value.
        disabled_reason: `by its owner`, `gone` (it answered 410) or `failing` (no success in five days).
        waiting: number of deliveries that wait for their next attempt.
        failing_since: since when every attempt has failed; None after a success.
        resting_until: no request is sent earlier: the circuit breaker is open, or the receiver sent `Retry-After`.
    """

    id: str
    url: str
    description: str
    events: list[str]
    headers: dict[str, str]
    rate_limit: float | None
    enabled: bool
    disabled_reason: str | None = None
    disabled_at: Moment | None = None
    created_at: Moment
    updated_at: Moment
    waiting: int = 0
    last_success_at: Moment | None = None
    failing_since: Moment | None = None
    resting_until: Moment | None = None


class NewEndpoint(Endpoint):
    """A new endpoint, or one with a new secret, and the secret. No other answer shows it."""

    secret: str


def check_headers(headers: Mapping[str, str | None]) -> None:
    """Refuse invalid headers and headers that only Retouch sets.

    Raises:
        InvalidInput: names each of them.
    """
    faults = [
        FieldError(f"headers.{name[:64]}", fault, "forbidden")
        for name, value in headers.items()
        if (fault := _fault(name, value))
    ]
    if len(headers) > MAX_HEADERS:
        faults.append(FieldError("headers", f"at most {MAX_HEADERS}", "too_many"))
    if faults:
        raise InvalidInput(*faults)


def _fault(name: str, value: str | None) -> str | None:
    if not TOKEN.fullmatch(name):
        return "is not a valid header name"
    if name.lower() in RESERVED_HEADERS or name.lower().startswith("webhook-"):
        return "is set by Retouch itself"
    if value is not None and not re.fullmatch(r"[\x21-\x7e]([\x20-\x7e]{0,1022}[\x21-\x7e])?", value):
        return "its value must have 1 to 1024 printable ASCII characters, without spaces at its ends"
    return None


def seal_headers(headers: Mapping[str, str], secret_box: SecretBox) -> str:
    """Encrypt headers for storage."""
    return secret_box.encrypt(json.dumps(dict(headers))) if headers else ""


def open_headers(record: Mapping[str, str], secret_box: SecretBox) -> dict[str, str]:
    """Decrypt the headers of an endpoint's record.

    Raises:
        ConfigurationError: this process does not have the right key.
    """
    text = record.get("headers")
    return dict(json.loads(secret_box.decrypt(text))) if text else {}


def decode_endpoint(endpoint_id: str, record: Mapping[str, str], waiting: int, now_ms: float) -> Endpoint:
    """An endpoint as the API shows it. It decrypts nothing."""

    def at(field: str) -> Any:
        return moment(record[field]) if field in record else None

    resting_until_ms = float(record.get("open_until", 0))
    return Endpoint(
        id=endpoint_id,
        url=record["url"],
        description=record.get("description", ""),
        events=json.loads(record["events"]),
        headers=_masked(json.loads(record.get("header_names", "[]"))),
        rate_limit=float(record["rate"]) if "rate" in record else None,
        enabled=record["enabled"] == "1",
        disabled_reason=record.get("disabled_why"),
        disabled_at=at("disabled_at"),
        created_at=moment(record["created"]),
        updated_at=moment(record["updated"]),
        waiting=waiting,
        last_success_at=at("succeeded_at"),
        failing_since=at("failing_since"),
        resting_until=moment(resting_until_ms) if resting_until_ms > now_ms else None,
    )


def _masked(names: Iterable[str]) -> dict[str, str]:
    return dict.fromkeys(names, MASK)
