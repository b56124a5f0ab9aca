"""The teller: turns events into deliveries and keeps their plan going. Any number may run; each may be killed."""

import os
import socket
import threading
import time
from collections.abc import Callable
from secrets import token_hex

import structlog
from redis.exceptions import RedisError, ResponseError

from jobs.events.outbox import Event, Outbox
from jobs.webhooks.routing import Audience, Target
from jobs.wiring import Domain

MOST_EVENTS = 100
LONGEST_WAIT_MS = 1000
BEAT_S = 4.0
"""Between two signs of life, and two looks for what dead tellers have left."""
TAKE_OVER_MS = 15_000
"""An event that was taken so long ago and is still there: its teller is gone."""
FORGET_MS = 3_600_000
PAUSE_S = 1.0
"""Longest between two plans, and how long a store that is away is left alone."""
SHORTEST_S = 0.005

log = structlog.get_logger(__name__)


class Teller:
    """One teller: a thread that reads the outbox, and one that keeps the deliveries' plan going.

    Args:
        domain: what the process works with.
        threads: the process's threads for deliveries.
        name: one of a kind; made where not given.
        take_over_ms: see `TAKE_OVER_MS`.
    """

    def __init__(
        self, domain: Domain, *, threads: int, name: str | None = None, take_over_ms: int = TAKE_OVER_MS
    ) -> None:
        self._domain = domain
        self._threads = threads
        self._take_over_ms = take_over_ms
        self.name = name or f"{socket.gethostname()}-{os.getpid()}-{token_hex(3)}"
        self._outbox = Outbox(domain.redis, domain.keys)
        self._audience = Audience(domain.redis, domain.keys)
        self._beat_at = 0.0
        self._changed = threading.Event()

    def changed(self) -> None:
        """There may be something to start: a try has ended, or there are new deliveries."""
        self._changed.set()

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set. A store that is away is waited for."""
        planning = threading.Thread(target=self._keep_on, args=(stop, self._plan), name="telling", daemon=True)
        planning.start()
        self._keep_on(stop, lambda: self._read(LONGEST_WAIT_MS))
        self._changed.set()
        planning.join(timeout=2)
        try:
            self._domain.deliveries.register(self.name, 0)
            self._outbox.leave(self.name)
        except RedisError as error:
            log.warning("teller.not_signed_off", error=str(error))

    def read_now(self) -> int:
        """What is in the outbox becomes deliveries, without waiting. Returns how many events it were."""
        return self._read(0)

    def _keep_on(self, stop: threading.Event, step: Callable[[], object]) -> None:
        while not stop.is_set():
            try:
                step()
            except ResponseError as error:
                # The store was emptied, or is another one: the next beat makes the group again.
                log.warning("teller.refused", error=str(error))
                self._beat_at = 0.0
                stop.wait(PAUSE_S)
            except RedisError as error:
                log.warning("teller.store_unreachable", error=str(error))
                stop.wait(PAUSE_S)
            except Exception:
                log.exception("teller.failed")
                stop.wait(PAUSE_S)

    def _plan(self) -> None:
        self._changed.clear()
        soon = self._domain.delivery_loop.dispatch()
        self._changed.wait(PAUSE_S if soon is None else min(PAUSE_S, max(SHORTEST_S, soon)))

    def _read(self, block_ms: int) -> int:
        """What is in the outbox becomes deliveries. Returns how many events it were."""
        events = self._beat() if time.monotonic() >= self._beat_at else []
        events += self._outbox.read(self.name, count=MOST_EVENTS, block_ms=0 if events else block_ms)
        if events:
            self._domain.deliveries.fan_out_many(filter(None, map(self._addressed, events)))
        for digest in self._domain.deliveries.due_digests():
            self._domain.deliveries.tell_digest(digest, self._domain.bodies.render_digest(digest))
        self._changed.set()
        return len(events)

    def _addressed(self, event: Event) -> tuple[Event, str, list[Target]] | None:
        """An event with its body and targets. One that cannot be read stays in the outbox, and holds back no other."""
        try:
            targets = self._audience.of(event)
            return event, self._domain.bodies.render(event) if targets else "", targets
        except RedisError:
            raise
        except Exception:
            log.exception("teller.not_read", entry=event.entry, type=event.type, subject=event.subject)
            return None

    def _beat(self) -> list[Event]:
        self._outbox.ensure()
        self._domain.deliveries.register(self.name, self._threads)
        self._outbox.sweep(FORGET_MS)
        self._beat_at = time.monotonic() + BEAT_S
        return self._outbox.take_over(self.name, count=MOST_EVENTS, idle_ms=self._take_over_ms)
