"""Models of a delivery, as it is stored and as the API shows it."""

import json
from collections.abc import Mapping
from enum import StrEnum

from jobs.foundation.values import moment
from jobs.records.job_models import Moment, Record

NEW = "new"


class DeliveryState(StrEnum):
    """The states of a delivery."""

    WAITING = "waiting"
    """It waits for its next attempt, at `next_try_at`."""
    SENDING = "sending"
    """An attempt is running."""
    SUCCEEDED = "succeeded"
    """The receiver answered 2xx."""
    EXHAUSTED = "exhausted"
    """There will be no attempt unless the user redelivers it; `reason` says why."""


ENDED = frozenset({DeliveryState.SUCCEEDED, DeliveryState.EXHAUSTED})

TRANSITIONS: dict[tuple[str, DeliveryState], str] = {
    (NEW, DeliveryState.WAITING): "fan-out",
    (DeliveryState.WAITING, DeliveryState.SENDING): "plan",
    (DeliveryState.WAITING, DeliveryState.SUCCEEDED): "an attempt succeeded after its lease had expired",
    (DeliveryState.WAITING, DeliveryState.EXHAUSTED): "its endpoint is disabled or deleted",
    (DeliveryState.SENDING, DeliveryState.WAITING): "a failed attempt, or an expired lease",
    (DeliveryState.SENDING, DeliveryState.SUCCEEDED): "settle",
    (DeliveryState.SENDING, DeliveryState.EXHAUSTED): "the last attempt failed, 410, or its endpoint is disabled",
    (DeliveryState.SUCCEEDED, DeliveryState.WAITING): "redeliver",
    (DeliveryState.EXHAUSTED, DeliveryState.WAITING): "redeliver, recover",
}
"""(from, to) -> cause. The scripts refuse every other transition."""


class Try(Record):
    """An entry of a delivery's log: one request to a receiver.

    Attributes:
        number: from 1, counted over the delivery's whole life.
        at: when it started.
        took_ms: duration of the exchange, in milliseconds.
        status: the answer's status; None without an answer.
        answer: the first kilobyte of the answer's body.
        error: why there is no complete answer.
    """

    number: int
    at: Moment
    took_ms: int | None = None
    status: int | None = None
    answer: str = ""
    error: str | None = None


class Delivery(Record):
    """The delivery of one event to one address.

    Attributes:
        event_id: the `webhook-id` of every attempt.
        endpoint_id: None if a job, a batch or a schedule named the address.
        subject: id of the job, batch or other object of the event.
        created_at: when the event happened.
        reason: why it is exhausted.
    """

    id: str
    event_id: str
    event_type: str
    subject: str
    endpoint_id: str | None = None
    url: str
    state: DeliveryState
    reason: str | None = None
    created_at: Moment
    next_try_at: Moment | None = None
    finished_at: Moment | None = None
    attempts: list[Try]


def decode_tries(log: str) -> list[Try]:
    """Decode a log that has one line of JSON per attempt."""
    tries = []
    # Not splitlines: it also splits at characters such as U+2028, which an answer may contain.
    for line in filter(None, log.split("\n")):
        entry = json.loads(line)
        entry["at"] = moment(entry.pop("at_ms"))
        tries.append(Try.model_validate(entry))
    return tries


def decode_delivery(delivery_id: str, record: Mapping[str, str], url: str) -> Delivery:
    """A delivery as the API shows it.

    Args:
        delivery_id: its id.
        record: its hash.
        url: the receiver queue's address, which is used if the record has none.
    """
    return Delivery(
        id=delivery_id,
        event_id=record["event"],
        event_type=record["type"],
        subject=record["subject"],
        endpoint_id=record.get("endpoint"),
        url=record.get("url", url),
        state=DeliveryState(record["state"]),
        reason=record.get("why"),
        created_at=moment(record["at"]),
        next_try_at=moment(record["next"]) if "next" in record else None,
        finished_at=moment(record["finished"]) if "finished" in record else None,
        attempts=decode_tries(record.get("log", "")),
    )
