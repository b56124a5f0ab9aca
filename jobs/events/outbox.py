"""The outbox: a stream into which each script puts its events, in the same step as the change they tell of."""

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

GROUP = "tellers"
"""The consumer group of all tellers."""
JOB_TYPES = ("job.succeeded", "job.filtered", "job.failed", "job.canceled")
JOB_DIGEST = "job.digest"
"""Up to a hundred job events of one batch, for those who asked for a digest."""
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
"""Every type of event."""
MOST_FILTERS = 32


@dataclass(frozen=True)
class Event:
    """Something that happened, as the outbox holds it.

    Attributes:
        entry: its entry in the stream.
        type: one of `TYPES`.
        tenant: whose it is; "" for what concerns everybody.
        subject: id of what it is about.
        at: when.
        data: what the script knew of the subject, JSON.
        only: id of the one endpoint that shall hear of it; None: whoever listens.
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
        """A ULID made from the entry's own id: unique, sorted by time, and the same whoever asks."""
        ms, _, number = self.entry.partition("-")
        return str(ULID.from_bytes(int(ms).to_bytes(6, "big") + int(number).to_bytes(10, "big")))

    @property
    def id(self) -> str:
        """The event's id, which is the `webhook-id` of all that is told of it."""
        return f"evt_{self.ulid}"


def matches(filters: Iterable[str], event_type: str) -> bool:
    """Whether one of the filters takes this type: `job.failed` itself, `job.*` or `*`."""
    return any(one in {"*", event_type} or (one.endswith(".*") and event_type.startswith(one[:-1])) for one in filters)


def wants_jobs(filters: Iterable[str]) -> bool:
    """Whether these filters take any event of a job."""
    return any(matches(filters, one) for one in JOB_TYPES)


def check_filters(filters: Sequence[str], field: str = "events") -> None:
    """Refuse filters that could never match.

    Raises:
        InvalidInput: naming the field.
    """
    if not 0 < len(filters) <= MOST_FILTERS:
        raise InvalidInput.of(field, f"1 to {MOST_FILTERS} of them; '*' takes every event")
    for one in filters:
        if one == JOB_DIGEST:
            raise InvalidInput.of(
                field,
                f"{JOB_DIGEST!r} is no filter: name the events of jobs, such as 'job.*', which come together where "
                "their batch has webhook_digest_s",
                "unknown",
            )
        if not re.fullmatch(r"\*|[a-z]+\.\*|[a-z]+(\.[a-z_]+)?", one) or not any(matches([one], t) for t in TYPES):
            raise InvalidInput.of(field, f"{one[:64]!r} is no type of event and no wildcard such as 'job.*'", "unknown")


class Outbox:
    """The stream's reading end, for tellers, and a way to put in what no script knows of.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    def ensure(self) -> None:
        """Make the consumer group, which begins with the oldest event, where there is none."""
        try:
            self._redis.xgroup_create(self._keys.outbox, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def put(self, event_type: str, *, tenant: str, subject: str, data: str, at_ms: int, only: str = "") -> str:
        """Tell of something; returns the entry's id."""
        key = self._keys.receiver_queue(subject)
        fields = {"type": event_type, "tenant": tenant, "subject": key, "at": at_ms, "data": data, "only": only}
        return str(self._redis.xadd(self._keys.outbox, fields))  # type: ignore[arg-type]

    def read(self, consumer: str, *, count: int, block_ms: int) -> list[Event]:
        """Events that nobody has taken yet; waits for the first one up to `block_ms`, 0: not at all."""
        answer: Any = self._redis.xreadgroup(
            GROUP, consumer, {self._keys.outbox: ">"}, count=count, block=block_ms if block_ms > 0 else None
        )
        streams = list(answer.items()) if isinstance(answer, Mapping) else answer or []
        return [event for _, entries in streams for event in self._events(_flat(entries))]

    def take_over(self, consumer: str, *, count: int, idle_ms: int) -> list[Event]:
        """Events that a teller took and did not finish for `idle_ms`: it is gone."""
        answer: Any = self._redis.xautoclaim(
            self._keys.outbox, GROUP, consumer, min_idle_time=idle_ms, start_id="0-0", count=count
        )
        return self._events(answer[1])

    def leave(self, consumer: str) -> None:
        """Forget a consumer that holds nothing; one that does stays until another has taken over."""
        pending: Any = self._redis.xpending_range(self._keys.outbox, GROUP, "-", "+", 1, consumer)
        if not pending:
            self._redis.xgroup_delconsumer(self._keys.outbox, GROUP, consumer)

    def sweep(self, idle_ms: int) -> None:
        """Forget consumers that were killed long ago, once others have taken over what they held."""
        consumers: Any = self._redis.xinfo_consumers(self._keys.outbox, GROUP)
        for one in consumers:
            if one["idle"] > idle_ms:
                self.leave(one["name"])

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
    # A server of protocol 3 is read as a list of lists a stream, one of protocol 2 as a list.
    return [pair for part in entries for pair in part] if entries and isinstance(entries[0], list) else entries
