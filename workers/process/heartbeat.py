"""A worker's pulse: it renews the leases of what the worker holds, registers its threads, and keeps the plan going.

Daemon threads, not Celery's timer: timer callbacks stop for seconds while the broker is away, and steps stop before
running tasks have drained.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import partial

import structlog
from celery import bootsteps
from redis.exceptions import RedisError

from jobs.plan.records import Dispatch
from jobs.wiring import Domain
from workers.edits.active_attempts import Held
from workers.process.consumer import Consuming
from workers.process.stall_watch import Look, Verdict, Watch

BEATS_A_LEASE = 10
"""So many renewals may fail before a lease ends."""
PLAN_S = 1.0
"""Longest between two plans, also where nothing seems to be due."""
SHORTEST_S = 0.002

log = structlog.get_logger(__name__)


class Pulse:
    """The threads that keep a worker alive and honest.

    Args:
        domain: what the process works with.
        held: the attempts the worker holds.
        consuming: what it takes from its queues.
        name: the worker's, one of a kind.
        slots: its threads for edits.
        queues: what it serves.
    """

    def __init__(
        self,
        domain: Domain,
        held: Held,
        consuming: Consuming,
        *,
        name: str,
        slots: int,
        queues: list[str],
    ) -> None:
        self._domain = domain
        self._held = held
        self._consuming = consuming
        self._name = name
        self._slots = slots
        self._draining = threading.Event()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._words = {"host": socket.gethostname(), "pid": os.getpid(), "queues": queues, "slots": slots}

    def start(self, leave: Callable[[str], None]) -> None:
        """Register the worker, then beat until `end`.

        Args:
            leave: told why, where the worker takes nothing any more and cannot be brought to.
        """
        if self._threads:
            return
        loops: dict[str, Callable[[], None]] = {"renewing": self._renewing, "watching": partial(self._watching, leave)}
        if self._slots:
            loops["planning"] = self._planning
        for name, loop in loops.items():
            thread = threading.Thread(target=loop, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def drain(self) -> None:
        """No new claims: the threads no longer count; what is held is still renewed."""
        if not self._draining.is_set():
            self._draining.set()
            self._depart(gone=False)

    def end(self) -> None:
        """The worker has let go of everything: it is forgotten."""
        self._ended.set()
        self._held.changed.set()
        for thread in self._threads:
            thread.join(timeout=2)
        self._depart(gone=True)

    def _depart(self, *, gone: bool) -> None:
        try:
            self._domain.planner.depart(self._name, gone=gone)
        except RedisError as error:
            log.warning("pulse.depart_failed", error=str(error))

    def _renewing(self) -> None:
        while not self._ended.is_set():
            self.renew()
            self._ended.wait(self._domain.settings.lease_s / BEATS_A_LEASE)

    def renew(self) -> None:
        """One beat. A store that does not answer is tried again at the next."""
        held = [Dispatch(claim.job_id, claim.attempt) for claim in self._held.claims()]
        words = json.dumps({**self._words, "seen_at": time.time(), "draining": self._draining.is_set()})
        slots = 0 if self._draining.is_set() else self._slots
        try:
            lost = self._domain.planner.renew(self._name, slots=slots, words=words, held=held)
        except RedisError as error:
            log.warning("pulse.unheard", error=str(error))
            return
        if lost:
            log.info("pulse.lost", jobs=[one.job_id for one in lost])
            self._held.mark_lost(lost)

    def _watching(self, leave: Callable[[str], None]) -> None:
        """See that what lies in the queues is taken. A thread of its own: a broker that hangs must stop no renewal."""
        lease_s = self._domain.settings.lease_s
        watch = Watch(patience_s=lease_s)
        while not self._ended.wait(lease_s / BEATS_A_LEASE) and not self._draining.is_set():
            taken, free = self._consuming.taken, self._consuming.free
            # Whoever takes messages, or has no thread for one, needs no look at the broker.
            backlog = self._consuming.backlog() if free > 0 and taken == watch.taken else None
            watch, verdict = watch.after(Look(time.monotonic(), taken, free, backlog))
            if verdict is Verdict.RESTART:
                log.error("pulse.stalled", backlog=backlog, free=free, then="the consumer is restarted")
                self._consuming.restart()
            elif verdict is Verdict.LEAVE:
                leave(f"{backlog} messages lie in its queues and it takes none, its consumer restarted or not")
                break
        self._consuming.close()

    def _planning(self) -> None:
        while not self._ended.is_set():
            self._held.changed.clear()
            wait_s = PLAN_S
            if not self._draining.is_set():
                try:
                    soon = self._domain.edit_loop.dispatch()
                except RedisError as error:
                    log.warning("pulse.plan_failed", error=str(error))
                except Exception:
                    log.exception("pulse.plan_failed")
                else:
                    wait_s = PLAN_S if soon is None else min(PLAN_S, max(SHORTEST_S, soon))
            self._held.changed.wait(wait_s)


def step_of(pulse: Pulse, consuming: Consuming, leave: Callable[[str], None]) -> type[bootsteps.StartStopStep]:
    """The bootstep that starts a pulse with its worker. What ends it is the worker's shutdown, after the last task."""

    class PulseStep(bootsteps.StartStopStep):
        requires = ("celery.worker.components:Pool",)

        def start(self, worker: object) -> None:
            consuming.bind(worker)
            pulse.start(leave)

    return PulseStep
