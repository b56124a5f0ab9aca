"""What a delivery is, as it is stored and as the API shows it."""

import json
from collections.abc import Mapping
from enum import StrEnum

from jobs.foundation.values import moment
from jobs.records.job_models import Moment, Record

NEW = "new"


class DeliveryState(StrEnum):
    """The states of a delivery."""

    WAITING = "waiting"
    """For its next try; `next_try_at` says when."""
    SENDING = "sending"
    """A try is under way."""
    SUCCEEDED = "succeeded"
    """The receiver has it: it answered 2xx."""
    EXHAUSTED = "exhausted"
    """There will be no more tries, unless the user asks; `reason` says why."""


ENDED = frozenset({DeliveryState.SUCCEEDED, DeliveryState.EXHAUSTED})

TRANSITIONS: dict[tuple[str, DeliveryState], str] = {
    (NEW, DeliveryState.WAITING): "fan-out",
    (DeliveryState.WAITING, DeliveryState.SENDING): "plan",
    (DeliveryState.WAITING, DeliveryState.SUCCEEDED): "a try whose lease was lost has told all the same",
    (DeliveryState.WAITING, DeliveryState.EXHAUSTED): "its endpoint is disabled or deleted",
    (DeliveryState.SENDING, DeliveryState.WAITING): "a failed try, or a lost lease",
    (DeliveryState.SENDING, DeliveryState.SUCCEEDED): "settle",
    (DeliveryState.SENDING, DeliveryState.EXHAUSTED): "the last try failed, 410, or its endpoint is disabled",
    (DeliveryState.SUCCEEDED, DeliveryState.WAITING): "redeliver",
    (DeliveryState.EXHAUSTED, DeliveryState.WAITING): "redeliver, recover",
}
"""(from, to) -> what brings it about. Whatever is not here is refused."""


class Try(Record):
    """One request to a receiver, as the log tells it.

    Attributes:
        number: from 1, over all the delivery's life.
        at: when it began.
        took_ms: how long the whole exchange took.
        status: of the answer, if one came.
        answer: the first kilobyte of the answer's body.
        error: why no whole answer came.
    """

    number: int
    at: Moment
    took_ms: int | None = None
    status: int | None = None
    answer: str = ""
    error: str | None = None


class Delivery(Record):
    """One telling of one event to one address.

    Attributes:
        event_id: the `webhook-id` of every try.
        endpoint_id: None where a job or a batch named the address.
        subject: id of what the event is about.
        created_at: the moment of the event.
        reason: why it was exhausted.
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
    """The log of tries, a line of JSON each."""
    tries = []
    # Not splitlines: it would split at U+2028 and the like, which an answer may have.
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
        url: of its line, where it has none of its own.
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
