"""Every state change of a delivery. Each method is one script; the scripts refuse a change that TRANSITIONS lacks."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from secrets import token_hex
from typing import Any

from redis import Redis

from jobs.events.outbox import GROUP, Event
from jobs.foundation.errors import Conflict, NotFound
from jobs.foundation.redis_keys import Keys
from jobs.foundation.tracing import traceparent_of
from jobs.foundation.values import moment, pairs, to_ms
from jobs.webhooks.delivery_models import DeliveryState
from jobs.webhooks.delivery_scripts import DeliveryScripts
from jobs.webhooks.digests import digest_entry
from jobs.webhooks.retry_policy import Exchange, Verdict
from jobs.webhooks.routing import Target

WORKER_TTL_S = 15.0
"""How long a webhook worker counts as alive after it has registered, in seconds."""
DAY_S = 86_400


@dataclass(frozen=True)
class DeliveryPlan:
    """The attempts that one call of the plan started.

    Attributes:
        dispatches: `(delivery id, number of the attempt)`.
        next_in_s: seconds until the plan may start more; None: time alone starts nothing.
    """

    dispatches: list[tuple[str, int]]
    next_in_s: float | None


@dataclass(frozen=True)
class DeliveryAttempt:
    """An attempt of a delivery that a worker holds.

    Attributes:
        delivery_id, number: the fence of the settlement.
        tenant: the owner of the event.
        event_id: the `webhook-id`.
        body: the request's body.
        url: the address of the request.
        tries: number of failed attempts in this run of the schedule.
        at: when the attempt was claimed, by the server's clock.
        queue: the record of the receiver queue, with an endpoint's encrypted secrets and headers.
        traceparent: the trace context of the event's job, if its submitter gave one.
    """

    delivery_id: str
    number: int
    tenant: str
    event_id: str
    body: str
    url: str
    tries: int
    at: datetime
    queue: Mapping[str, str]
    traceparent: str | None = None


class Deliveries:
    """The deliveries in one Redis or Valkey. Safe in any number of processes and threads at once.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
        scripts: the scripts about deliveries.
    """

    def __init__(self, redis: Redis, keys: Keys, scripts: DeliveryScripts) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = scripts

    def fan_out(self, events: Iterable[tuple[Event, str, Iterable[Target]]]) -> list[int]:
        """Turn events with their bodies into deliveries and remove them from the outbox, in one round trip.

        Each event is one transaction.

        Returns:
            For each event, how many deliveries were written; -1 if another outbox reader has done it.
        """
        pipe = self._redis.pipeline(transaction=False)
        for event, body, targets in events:
            self._fan_out(pipe, event, body, targets)
        return [int(answer) for answer in pipe.execute()]

    def _fan_out(self, pipe: Any, event: Event, body: str, targets: Iterable[Target]) -> None:
        keys, queues, deliveries, digests = [], [], [], []
        for target in targets:
            keys += [self._keys.delivery(target.delivery_id(event.ulid)), self._keys.receiver_queue(target.queue_id)]
            queues.append(target.queue_record or False)
            deliveries.append(target.address)
            digests.append(digest_entry(self._keys, event, target))
        context = traceparent_of(event.data)
        command = {
            "event": {
                "event": event.id,
                "type": event.type,
                "subject": event.subject,
                "at": str(to_ms(event.at)),
                "body": body,
                **({"traceparent": context} if context else {}),
            },
            "lines": queues,
            "deliveries": deliveries,
            "digests": digests,
            "old": self._expired_before(event),
        }
        self._scripts.run("fan_out", keys, [event.entry, GROUP, json.dumps(command)], pipe)

    def _expired_before(self, event: Event) -> dict[str, str]:
        """For each ended state, a delivery key: deliveries with a smaller key have expired.

        A delivery ends within days of its event; 30 days are more than the whole retry schedule.
        """
        retention_s = {"succeeded": self._scripts.succeeded_kept_s, "exhausted": self._scripts.exhausted_kept_s}
        bounds = {}
        for state, seconds in retention_s.items():
            ms = max(0, to_ms(event.at) - int((seconds + 30 * DAY_S) * 1000))
            bounds[state] = self._keys.delivery(f"dlv_{Event(f'{ms}-0', '', '', '', event.at, '').ulid}")
        return bounds

    def register(self, name: str, threads: int) -> None:
        """Record that a webhook worker is alive, with its number of threads; 0 removes it."""
        self._scripts.run("register_worker", [], [name, threads, int(WORKER_TTL_S * 1000)])

    def plan(self, *, limit: int = 100) -> DeliveryPlan:
        """Start the deliveries that may start now, at most `limit`."""
        answer = self._scripts.run("plan", [], [limit])
        wait_ms = int(answer[0])
        dispatches = [(self._keys.id_of(key), int(number)) for key, number in pairs(answer[1:]).items()]
        return DeliveryPlan(dispatches, None if wait_ms < 0 else wait_ms / 1000)

    def claim(self, delivery_id: str, number: int) -> DeliveryAttempt | None:
        """Claim an attempt.

        Returns:
            None if the worker must drop the message: it is late, another worker has the attempt, or the receiver
            queue is disabled.
        """
        answer = self._scripts.run("claim", [self._keys.delivery(delivery_id)], [number, token_hex(8)])
        if not answer:
            return None
        record, queue = pairs(answer[1]), pairs(answer[2])
        return DeliveryAttempt(
            delivery_id=delivery_id,
            number=number,
            tenant=queue["owner"],
            event_id=record["event"],
            body=record["body"],
            url=record.get("url") or queue["url"],
            tries=int(record.get("tries", 0)),
            at=moment(answer[0]),
            queue=queue,
            traceparent=record.get("traceparent"),
        )

    def settle(self, attempt: DeliveryAttempt, exchange: Exchange, verdict: Verdict) -> DeliveryState | None:
        """End an attempt: update the delivery's state and log and the receiver's statistics, in one step.

        Returns:
            The delivery's state; None if the fence refused the settlement.
        """
        log_entry = {
            "number": attempt.number,
            "at_ms": to_ms(attempt.at),
            "took_ms": exchange.took_ms,
            "status": exchange.status,
            "answer": exchange.answer,
            "error": exchange.error,
        }
        command = {
            "ok": verdict.ok,
            "log": json.dumps(
                {name: value for name, value in log_entry.items() if value not in (None, "")}, ensure_ascii=False
            ),
            "took_ms": exchange.took_ms,
            "delay_ms": verdict.delay_ms,
            "rest_ms": verdict.rest_ms,
            "why": verdict.why,
            "gone": verdict.gone,
            "revision": attempt.queue.get("revision", "0"),
        }
        fields = {name: value for name, value in command.items() if value is not None}
        keys = [self._keys.delivery(attempt.delivery_id)]
        state = self._scripts.run("settle", keys, [attempt.number, json.dumps(fields)])
        return DeliveryState(state) if state else None

    def redeliver(self, delivery_id: str) -> None:
        """Retry a delivery now. An ended delivery starts its schedule again; a waiting one becomes due.

        Raises:
            NotFound: there is no such delivery.
            Conflict: it is being sent, or its endpoint is disabled.
        """
        states = [state for state in DeliveryState if state != DeliveryState.SENDING]
        count, state, enabled = self._redeliver([delivery_id], states)
        if not state:
            raise NotFound(f"there is no delivery {delivery_id}")
        if enabled != "1":
            raise Conflict("its endpoint is disabled or deleted: enable it first")
        if not count:
            raise Conflict(f"delivery {delivery_id} is {state}: an attempt is running")

    def redeliver_many(self, delivery_ids: Sequence[str], states: Iterable[DeliveryState]) -> int:
        """Retry now the deliveries that are in one of these states. Returns how many."""
        return self._redeliver(delivery_ids, states)[0] if delivery_ids else 0

    def _redeliver(self, delivery_ids: Sequence[str], states: Iterable[DeliveryState]) -> tuple[int, str, str]:
        """How many deliveries are due now; of the first one, its state before and '1' if its queue is enabled."""
        keys = [self._keys.delivery(delivery_id) for delivery_id in delivery_ids]
        count, state, enabled = self._scripts.run("redeliver", keys, [json.dumps([str(state) for state in states])])
        return int(count), str(state), str(enabled)
