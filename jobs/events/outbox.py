"""The outbox: a stream of events. A script writes an event in the same step as the change that the event reports."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError
from ulid import ULID

from jobs.foundation.errors import InvalidInput
from jobs.foundation.redis_keys import Keys
from jobs.foundation.values import moment

_FILTER = re.compile(r"\*|[a-z]+\.\*|[a-z]+(\.[a-z_]+)?")
GROUP = "tellers"
"""The consumer group of all outbox readers. Its name is stored data."""
JOB_TYPES = ("job.succeeded", "job.filtered", "job.failed", "job.canceled")
JOB_DIGEST = "job.digest"
"""Up to a hundred job events of one batch, for receivers that subscribe to digests."""
PING, ENDPOINT_DISABLED = "ping", "endpoint.disabled"
TYPES = (
    *JOB_TYPES,
    JOB_DIGEST,
    "batch.completed",
    "batch.awaiting_approval",
    "batch.paused",
    "batch.canceled",
    "batch.failed",
    "schedule.run_started",
    "schedule.run_failed",
    "model.parked",
    "model.resumed",
    ENDPOINT_DISABLED,
    PING,
)
"""All types of events."""
MAX_FILTERS = 32


@dataclass(frozen=True)
class Event:
    """An event in the outbox.

    Attributes:
        entry: id of its entry in the stream.
        type: one of `TYPES`.
        tenant: name of its tenant; "" for events that concern all tenants.
        subject: id of the job, batch, schedule, model or endpoint.
        at: time of the event.
        data: the fields of the subject that the script passes on, JSON.
        only: id of the only endpoint that gets it; None: all that subscribe.
    """

    entry: str
    type: str
    tenant: str
    subject: str
    at: datetime
    data: str
    only: str | None = None

    @property
    def ulid(self) -> str:
        """A ULID from the entry's id: unique, sorted by time, and equal in all processes."""
        ms, _, number = self.entry.partition("-")
        return str(ULID.from_bytes(int(ms).to_bytes(6, "big") + int(number).to_bytes(10, "big")))

    @property
    def id(self) -> str:
        """The event's id, the `webhook-id` of all its deliveries."""
        return f"evt_{self.ulid}"


def matches(filters: Iterable[str], event_type: str) -> bool:
    """Whether a filter matches this type: `job.failed` itself, `job.*` or `*`."""
    return any(
        pattern in {"*", event_type} or (pattern.endswith(".*") and event_type.startswith(pattern[:-1]))
        for pattern in filters
    )


def wants_jobs(filters: Iterable[str]) -> bool:
    """Whether these filters match an event of a job."""
    return any(matches(filters, event_type) for event_type in JOB_TYPES)


def check_filters(filters: Sequence[str], field: str = "events") -> None:
    """Check that each filter can match an event.

    Raises:
        InvalidInput: a filter is invalid; it names the field.
    """
    if not 0 < len(filters) <= MAX_FILTERS:
        raise InvalidInput.of(field, f"1 to {MAX_FILTERS} filters; '*' matches every event")
    for pattern in filters:
        if pattern == JOB_DIGEST:
            raise InvalidInput.of(
                field,
                f"{JOB_DIGEST!r} is not a filter: subscribe to events of jobs, such as 'job.*'; a batch with "
                "webhook_digest_s sends them in digests",
                "unknown",
            )
        if not re.fullmatch(r"\*|[a-z]+\.\*|[a-z]+(\.[a-z_]+)?", pattern) or not any(
            matches([pattern], t) for t in TYPES
        ):
            raise InvalidInput.of(
                field, f"{pattern[:64]!r} is neither a type of event nor a wildcard such as 'job.*'", "unknown"
            )


class Outbox:
    """Reads the stream, for outbox readers, and writes the events that no script writes.

    Args:
        redis: a client that decodes responses.
        keys: the keys in Redis.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    def ensure(self) -> None:
        """Create the consumer group, which starts with the oldest event, if it does not exist."""
        try:
            self._redis.xgroup_create(self._keys.outbox, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def put(self, event_type: str, *, tenant: str, subject: str, data: str, at_ms: int, only: str = "") -> str:
        """Write an event. `at_ms` is its time in ms. Returns the entry's id."""
        key = self._keys.receiver_queue(subject)
        fields = {"type": event_type, "tenant": tenant, "subject": key, "at": at_ms, "data": data, "only": only}
        return str(self._redis.xadd(self._keys.outbox, fields))  # type: ignore[arg-type]

    def read(self, consumer: str, *, count: int, block_ms: int) -> list[Event]:
        """Claim events that no reader has claimed. Waits up to `block_ms` for the first one; 0: does not wait."""
        answer: Any = self._redis.xreadgroup(
            GROUP, consumer, {self._keys.outbox: ">"}, count=count, block=block_ms if block_ms > 0 else None
        )
        streams = list(answer.items()) if isinstance(answer, Mapping) else answer or []
        return [event for _, entries in streams for event in self._events(_flat(entries))]

    def take_over(self, consumer: str, *, count: int, idle_ms: int) -> list[Event]:
        """Claim events that another reader claimed more than `idle_ms` ago and has not finished."""
        answer: Any = self._redis.xautoclaim(
            self._keys.outbox, GROUP, consumer, min_idle_time=idle_ms, start_id="0-0", count=count
        )
        return self._events(answer[1])

    def leave(self, consumer: str) -> None:
        """Delete a consumer that has no pending events. Otherwise it stays until another one has taken them over."""
        pending: Any = self._redis.xpending_range(self._keys.outbox, GROUP, "-", "+", 1, consumer)
        if not pending:
            self._redis.xgroup_delconsumer(self._keys.outbox, GROUP, consumer)

    def sweep(self, idle_ms: int) -> None:
        """Delete consumers that are idle for more than `idle_ms` and have no pending events."""
        consumers: Any = self._redis.xinfo_consumers(self._keys.outbox, GROUP)
        for consumer in consumers:
            if consumer["idle"] > idle_ms:
                self.leave(consumer["name"])

    def _events(self, entries: Iterable[tuple[str, Mapping[str, str] | None]]) -> list[Event]:
        return [
            Event(
                entry=entry,
                type=fields["type"],
                tenant=fields["tenant"],
                subject=self._keys.id_of(fields["subject"]),
                at=moment(fields["at"]),
                data=fields["data"],
                only=fields.get("only") or None,
            )
            for entry, fields in entries
            if fields
        ]


def _flat(entries: Any) -> list[Any]:
    # Protocol 3 returns a list of lists for each stream, protocol 2 a list.
    return [pair for part in entries for pair in part] if entries and isinstance(entries[0], list) else entries
