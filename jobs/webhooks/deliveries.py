"""Every state change of a delivery. Each method is one script; the scripts refuse what TRANSITIONS does not allow."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from secrets import token_hex
from typing import Any

import structlog
from redis import Redis
from ulid import ULID

from jobs.events.outbox import GROUP, JOB_DIGEST, Event
from jobs.foundation.errors import Conflict, NotFound
from jobs.foundation.ids import batch_of
from jobs.foundation.redis_keys import Keys
from jobs.foundation.tracing import traceparent_of
from jobs.plan import lua_loader
from jobs.records.job_codec import moment, pairs, to_ms
from jobs.webhooks.delivery_models import TRANSITIONS, DeliveryState
from jobs.webhooks.retry_policy import Exchange, Verdict
from jobs.webhooks.routing import Target

LEASE_S = 30.0
"""How long a try lives from its start, and again from its claim: longer than a whole exchange may take."""
SUCCEEDED_KEPT_S = 3 * 86_400
"""How long a delivery that succeeded can be looked at; what was exhausted is kept as long as jobs are."""
TELLER_LIVES_S = 15.0
MOST_IN_A_DIGEST = 100
DAY_S = 86_400

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class DeliveryPlan:
    """What a call of the plan started.

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
        delivery_id, number: the fence of what it writes.
        tenant: whose event it is.
        event_id: the `webhook-id`.
        body: what is sent.
        url: where to.
        tries: tries that were used up before this one.
        at: when it was claimed, by the server's clock.
        line: the record of its line: an endpoint's secrets and headers are in it, sealed.
        traceparent: the trace context of the job it tells of, where its submitter gave one.
    """

    delivery_id: str
    number: int
    tenant: str
    event_id: str
    body: str
    url: str
    tries: int
    at: datetime
    line: Mapping[str, str]
    traceparent: str | None = None


@dataclass(frozen=True)
class Digest:
    """Job events of one batch that are told together.

    Attributes:
        seq: how many came before it: its fence.
        every_ms: most often.
        address: fields of the delivery that say where it goes.
        items: `id`, `type`, `at` (ms) and `job` of each event.
        at: when it was made.
    """

    batch_id: str
    line_id: str
    seq: int
    every_ms: int
    address: dict[str, str]
    items: tuple[dict[str, Any], ...]
    at: datetime

    @property
    def ulid(self) -> str:
        """A ULID that is the same whichever teller makes the digest."""
        if not self.items:
            return str(ULID.from_timestamp(self.at.timestamp()))
        words = f"{self.batch_id}\0{self.line_id}\0{self.address.get('url', '')}\0{self.seq}"
        tail = hashlib.sha256(words.encode()).digest()[:10]
        return str(ULID.from_bytes(int(self.items[0]["at"]).to_bytes(6, "big") + tail))

    @property
    def id(self) -> str:
        """Its `webhook-id`."""
        return f"evt_{self.ulid}"


class Deliveries:
    """The deliveries over one Redis or Valkey. Safe in any number of processes and threads at once.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
        retention_s: how long an exhausted delivery is kept, in seconds.
        lease_s: see `LEASE_S`.
        clock_ms: milliseconds since 1970 for tests; by default the server's own clock.
    """

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        *,
        retention_s: float,
        lease_s: float = LEASE_S,
        clock_ms: Callable[[], int] | None = None,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._exhausted_kept_s = retention_s
        self._succeeded_kept_s = min(SUCCEEDED_KEPT_S, retention_s)
        self._lease_ms = int(lease_s * 1000)
        self._clock_ms = clock_ms
        names = ("fan_out", "plan", "claim", "settle", "redeliver", "register_worker", "send_digest")
        self._scripts = {name: lua_loader.load(redis, f"deliveries/{name}", TRANSITIONS) for name in names}

    def _run(self, name: str, keys: Sequence[str], args: Sequence[Any], client: Any = None) -> Any:
        now = self._clock_ms() if self._clock_ms else 0
        kept = (int(self._succeeded_kept_s * 1000), int(self._exhausted_kept_s * 1000))
        return self._scripts[name](
            keys=[*self._keys.telling, *keys], args=[now, self._lease_ms, *kept, *args], client=client
        )

    def fan_out(self, event: Event, body: str, targets: Iterable[Target]) -> int:
        """Make an event its deliveries, all of them or none, and take it out of the outbox.

        Returns:
            How many were written; -1 where another teller had done it.
        """
        return self.fan_out_many([(event, body, targets)])[0]

    def fan_out_many(self, events: Iterable[tuple[Event, str, Iterable[Target]]]) -> list[int]:
        """The same for events and their bodies, each by itself, in one round trip."""
        pipe = self._redis.pipeline(transaction=False)
        for event, body, targets in events:
            self._fan_out(pipe, event, body, targets)
        return [int(answer) for answer in pipe.execute()]

    def _fan_out(self, pipe: Any, event: Event, body: str, targets: Iterable[Target]) -> None:
        names, lines, deliveries, digests = [], [], [], []
        for target in targets:
            names += [self._keys.delivery(target.delivery_id(event.ulid)), self._keys.line(target.line_id)]
            lines.append(target.card or False)
            deliveries.append(target.address)
            digests.append(self._collected(event, target))
        order = {
            "event": {
                "event": event.id,
                "type": event.type,
                "subject": event.subject,
                "at": str(to_ms(event.at)),
                "body": body,
                **({"traceparent": context} if (context := traceparent_of(event.data)) else {}),
            },
            "lines": lines,
            "deliveries": deliveries,
            "digests": digests,
            "old": self._expired_before(event),
        }
        self._run("fan_out", names, [event.entry, GROUP, json.dumps(order)], pipe)

    def _collected(self, event: Event, target: Target) -> dict[str, Any] | bool:
        """Where an event waits to be told together with others; False where it is told alone."""
        batch_id = batch_of(event.subject)
        if not target.digest_s or batch_id is None:
            return False
        item = {"id": event.id, "type": event.type, "at": to_ms(event.at), "job": event.subject}
        every_ms = int(target.digest_s * 1000)
        return {
            "due": self._keys.deliveries("digests"),
            "key": self._keys.digest(batch_id, target.line_id),
            "list": self._keys.digest_list(batch_id, target.line_id),
            "item": json.dumps(item),
            "every_ms": every_ms,
            "fields": {"batch": batch_id, "line": target.line_id, "every": str(every_ms), **target.address},
        }

    def due_digests(self) -> list[Digest]:
        """What was collected and is due."""
        all_digests = self._keys.deliveries("digests")
        due: Any = self._redis.zrangebyscore(all_digests, "-inf", self._now_ms(), 0, 20)
        found = []
        for key in due:
            record: Any = self._redis.hgetall(key)
            if "batch" not in record:
                # It is lost, and must not hold back the others; the next event writes it anew, with what was collected.
                log.error("deliveries.digest_lost", digest=key)
                self._redis.zrem(all_digests, key)
                continue
            items: Any = self._redis.lrange(
                self._keys.digest_list(record["batch"], record["line"]), 0, MOST_IN_A_DIGEST - 1
            )
            address = {name: record[name] for name in ("url", "endpoint") if name in record}
            entries = tuple(json.loads(item) for item in items)
            found.append(
                Digest(
                    record["batch"],
                    record["line"],
                    int(record.get("seq", 0)),
                    int(record["every"]),
                    address,
                    entries,
                    moment(self._now_ms()),
                )
            )
        return found

    def tell_digest(self, digest: Digest, body: str) -> bool:
        """Make what was collected one delivery; False where another teller had done it."""
        fields = {
            "event": digest.id,
            "type": JOB_DIGEST,
            "subject": digest.batch_id,
            "at": str(to_ms(digest.at)),
            "body": body,
            **digest.address,
        }
        target = Target(digest.line_id, url=digest.address.get("url"))
        names = [
            self._keys.delivery(target.delivery_id(digest.ulid)),
            self._keys.line(digest.line_id),
            self._keys.digest(digest.batch_id, digest.line_id),
            self._keys.digest_list(digest.batch_id, digest.line_id),
            self._keys.deliveries("digests"),
        ]
        args = [digest.seq, len(digest.items), json.dumps(fields), digest.every_ms]
        return bool(self._run("send_digest", names, args))

    def _now_ms(self) -> int:
        if self._clock_ms:
            return self._clock_ms()
        seconds, micros = self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def _expired_before(self, event: Event) -> dict[str, str]:
        """For each index, the key before which all deliveries have expired: they end within days and are then kept."""
        kept = {"succeeded": self._succeeded_kept_s, "exhausted": self._exhausted_kept_s}
        bounds = {}
        for state, seconds in kept.items():
            ms = max(0, to_ms(event.at) - int((seconds + 30 * DAY_S) * 1000))
            bounds[state] = self._keys.delivery(f"dlv_{Event(f'{ms}-0', '', '', '', event.at, '').ulid}")
        return bounds

    def register(self, name: str, threads: int) -> None:
        """Say that a webhook worker lives and how many threads it has; 0 takes it off the list."""
        self._run("register_worker", [], [name, threads, int(TELLER_LIVES_S * 1000)])

    def plan(self, *, limit: int = 100) -> DeliveryPlan:
        """Start what may be told now; at most `limit` deliveries."""
        answer = self._run("plan", [], [limit])
        wait_ms = int(answer[0])
        started = [(self._keys.id_of(key), int(number)) for key, number in pairs(answer[1:]).items()]
        return DeliveryPlan(started, None if wait_ms < 0 else wait_ms / 1000)

    def claim(self, delivery_id: str, number: int) -> DeliveryAttempt | None:
        """Take up a try; None where its message is to be dropped (late, taken, or nobody wants it any more)."""
        answer = self._run("claim", [self._keys.delivery(delivery_id)], [number, token_hex(8)])
        if not answer:
            return None
        record, line = pairs(answer[1]), pairs(answer[2])
        return DeliveryAttempt(
            delivery_id=delivery_id,
            number=number,
            tenant=line["owner"],
            event_id=record["event"],
            body=record["body"],
            url=record.get("url") or line["url"],
            tries=int(record.get("tries", 0)),
            at=moment(answer[0]),
            line=line,
            traceparent=record.get("traceparent"),
        )

    def settle(self, attempt: DeliveryAttempt, exchange: Exchange, verdict: Verdict) -> DeliveryState | None:
        """End a try: state, log, and what it taught about the receiver, in one step.

        Returns:
            The delivery's state; None where the fence refused it.
        """
        entry = {
            "number": attempt.number,
            "at_ms": to_ms(attempt.at),
            "took_ms": exchange.took_ms,
            "status": exchange.status,
            "answer": exchange.answer,
            "error": exchange.error,
        }
        order = {
            "ok": verdict.ok,
            "log": json.dumps(
                {name: value for name, value in entry.items() if value not in (None, "")}, ensure_ascii=False
            ),
            "took_ms": exchange.took_ms,
            "delay_ms": verdict.delay_ms,
            "rest_ms": verdict.rest_ms,
            "why": verdict.why,
            "gone": verdict.gone,
            "revision": attempt.line.get("revision", "0"),
        }
        given = {name: value for name, value in order.items() if value is not None}
        state = self._run("settle", [self._keys.delivery(attempt.delivery_id)], [attempt.number, json.dumps(given)])
        return DeliveryState(state) if state else None

    def redeliver(self, delivery_id: str) -> None:
        """Try a delivery now: an ended one begins its schedule anew, a waiting one is brought forward.

        Raises:
            NotFound: there is no such delivery.
            Conflict: it is being sent, or its endpoint is disabled.
        """
        count, state, enabled = self._again([delivery_id], [s for s in DeliveryState if s != DeliveryState.SENDING])
        if not state:
            raise NotFound(f"there is no delivery {delivery_id}")
        if enabled != "1":
            raise Conflict("its endpoint is disabled or deleted: enable it first")
        if not count:
            raise Conflict(f"delivery {delivery_id} is {state}: it is being told right now")

    def redeliver_many(self, delivery_ids: Sequence[str], states: Iterable[DeliveryState]) -> int:
        """The same for many at once; those in other states are left as they are. Returns how many were put forward."""
        return self._again(delivery_ids, states)[0] if delivery_ids else 0

    def _again(self, delivery_ids: Sequence[str], states: Iterable[DeliveryState]) -> tuple[int, str, str]:
        keys = [self._keys.delivery(one) for one in delivery_ids]
        count, state, enabled = self._run("redeliver", keys, [json.dumps([str(one) for one in states])])
        return int(count), str(state), str(enabled)
