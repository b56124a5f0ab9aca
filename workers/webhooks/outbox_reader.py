"""The outbox reader: makes deliveries from events and starts them. Any number may run; each may be killed."""

import os
import socket
import threading
import time
from collections.abc import Callable
from secrets import token_hex

import structlog
from redis.exceptions import RedisError, ResponseError

from jobs.events.outbox import Event, Outbox
from jobs.webhooks.deliveries import Deliveries
from jobs.webhooks.digests import Digests
from jobs.webhooks.payloads import Bodies
from jobs.webhooks.routing import EventRouter, Target

MAX_EVENTS = 100
MAX_BLOCK_MS = 1000
"""How long one read waits for an event, in milliseconds."""
BEAT_S = 4.0
"""Seconds between two heartbeats; each one takes over the events that dead readers have left."""
TAKE_OVER_MS = 15_000
"""An event that a reader took so long ago, in milliseconds, and did not finish: its reader is dead."""
FORGET_MS = 3_600_000
"""A reader that has been idle for so long, in milliseconds, is removed."""
PAUSE_S = 1.0
"""Longest pause between two plans, and after a failure, in seconds."""
MIN_PAUSE_S = 0.005

log = structlog.get_logger(__name__)


class OutboxReader:
    """Two threads: one reads the outbox, the other starts deliveries.

    Args:
        outbox: the events.
        router: finds the receivers of an event.
        bodies: renders events.
        deliveries: where the deliveries are written.
        digests: job events of batches that are sent together.
        dispatch: starts the deliveries that may start; returns the seconds until it may start more, or None.
        threads: the process's threads for deliveries.
        name: one of a kind; generated unless given.
        take_over_ms: see `TAKE_OVER_MS`.
    """

    def __init__(
        self,
        outbox: Outbox,
        router: EventRouter,
        bodies: Bodies,
        deliveries: Deliveries,
        digests: Digests,
        *,
        dispatch: Callable[[], float | None],
        threads: int,
        name: str | None = None,
        take_over_ms: int = TAKE_OVER_MS,
    ) -> None:
        self._outbox = outbox
        self._router = router
        self._bodies = bodies
        self._deliveries = deliveries
        self._digests = digests
        self._dispatch = dispatch
        self._threads = threads
        self._take_over_ms = take_over_ms
        self.name = name or f"{socket.gethostname()}-{os.getpid()}-{token_hex(3)}"
        self._beat_at = 0.0
        self._changed = threading.Event()

    def changed(self) -> None:
        """The plan may start something: an attempt has ended, or there are new deliveries."""
        self._changed.set()

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set. While the store is down, it waits."""
        planning = threading.Thread(target=self._repeat, args=(stop, self._plan), name="delivery-plan", daemon=True)
        planning.start()
        self._repeat(stop, lambda: self._read(MAX_BLOCK_MS))
        self._changed.set()
        planning.join(timeout=2)
        try:
            self._deliveries.register(self.name, 0)
            self._outbox.leave(self.name)
        except RedisError as error:
            log.warning("outbox_reader.not_signed_off", error=str(error))

    def read_now(self) -> int:
        """Make deliveries from the events in the outbox, without waiting. Returns the number of events."""
        return self._read(0)

    def _repeat(self, stop: threading.Event, step: Callable[[], object]) -> None:
        while not stop.is_set():
            try:
                step()
            except ResponseError as error:
                # The store was emptied or replaced: the next heartbeat makes the consumer group again.
                log.warning("outbox_reader.refused", error=str(error))
                self._beat_at = 0.0
                stop.wait(PAUSE_S)
            except RedisError as error:
                log.warning("outbox_reader.store_unreachable", error=str(error))
                stop.wait(PAUSE_S)
            except Exception:
                log.exception("outbox_reader.failed")
                stop.wait(PAUSE_S)

    def _plan(self) -> None:
        self._changed.clear()
        wait_s = self._dispatch()
        self._changed.wait(PAUSE_S if wait_s is None else min(PAUSE_S, max(MIN_PAUSE_S, wait_s)))

    def _read(self, block_ms: int) -> int:
        """Make deliveries from events and from digests that are due. Returns the number of events."""
        events = self._beat() if time.monotonic() >= self._beat_at else []
        events += self._outbox.read(self.name, count=MAX_EVENTS, block_ms=0 if events else block_ms)
        if events:
            self._deliveries.fan_out(filter(None, map(self._addressed, events)))
        for digest in self._digests.due():
            self._digests.send(digest, self._bodies.render_digest(digest))
        self._changed.set()
        return len(events)

    def _addressed(self, event: Event) -> tuple[Event, str, list[Target]] | None:
        """An event with its body and targets; None for an unreadable event, which stays in the outbox."""
        try:
            targets = self._router.targets(event)
            return event, self._bodies.render(event) if targets else "", targets
        except RedisError:
            raise
        except Exception:
            log.exception("outbox_reader.not_read", entry=event.entry, type=event.type, subject=event.subject)
            return None

    def _beat(self) -> list[Event]:
        self._outbox.ensure()
        self._deliveries.register(self.name, self._threads)
        self._outbox.sweep(FORGET_MS)
        self._beat_at = time.monotonic() + BEAT_S
        return self._outbox.take_over(self.name, count=MAX_EVENTS, idle_ms=self._take_over_ms)
