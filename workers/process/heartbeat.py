"""A worker's heartbeat: it renews the leases of the worker's attempts, registers its threads, and runs the plan.

It uses daemon threads and not Celery's timer: timer callbacks stop for seconds while the broker is down, and Celery's
steps stop before the running tasks have ended.
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

from jobs.plan.planner import Planner
from jobs.plan.records import Dispatch
from workers.edits.active_attempts import ActiveAttempts
from workers.process.consumer import QueueConsumer
from workers.process.stall_watch import Observation, StallWatch, Verdict

BEATS_A_LEASE = 10
"""How many renewals in a row must fail before a lease ends."""
MAX_PLAN_PAUSE_S = 1.0
"""Longest pause between two plans, in seconds."""
MIN_PLAN_PAUSE_S = 0.002

log = structlog.get_logger(__name__)


class Heartbeat:
    """The threads that keep a worker registered and its leases alive.

    Args:
        planner: renews leases.
        dispatch: starts the jobs that may start; returns the seconds until it may start more, or None.
        active: the attempts of the worker.
        consumer: of the worker's queues.
        lease_s: how long a lease lives, in seconds.
        name: the worker's, one of a kind.
        slots: its threads for edits.
        queues: the names of its queues.
    """

    def __init__(
        self,
        planner: Planner,
        dispatch: Callable[[], float | None],
        active: ActiveAttempts,
        consumer: QueueConsumer,
        *,
        lease_s: float,
        name: str,
        slots: int,
        queues: list[str],
    ) -> None:
        self._planner = planner
        self._dispatch = dispatch
        self._active = active
        self._consumer = consumer
        self._lease_s = lease_s
        self._name = name
        self._slots = slots
        self._draining = threading.Event()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._worker_info = {"host": socket.gethostname(), "pid": os.getpid(), "queues": queues, "slots": slots}

    def start(self, leave: Callable[[str], None]) -> None:
        """Register the worker and start the threads; a second call does nothing.

        Args:
            leave: called with the reason where the worker no longer takes messages, also after a restart of its
                consumer.
        """
        if self._threads:
            return
        loops: dict[str, Callable[[], None]] = {
            "heartbeat": self._renew_loop,
            "stall-watch": partial(self._watch_loop, leave),
        }
        if self._slots:
            loops["plan"] = self._plan_loop
        for name, loop in loops.items():
            thread = threading.Thread(target=loop, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def drain(self) -> None:
        """Register no threads any more, so that the plan starts nothing here; leases are still renewed."""
        if not self._draining.is_set():
            self._draining.set()
            self._depart(gone=False)

    def end(self) -> None:
        """Stop the threads and remove the worker from the store: it runs no attempt any more."""
        self._ended.set()
        self._active.changed.set()
        for thread in self._threads:
            thread.join(timeout=2)
        self._depart(gone=True)

    def renew(self) -> None:
        """Send one heartbeat. If the store does not answer, the next heartbeat tries again."""
        held = [Dispatch(claim.job_id, claim.attempt) for claim in self._active.claims()]
        worker_info = json.dumps({**self._worker_info, "seen_at": time.time(), "draining": self._draining.is_set()})
        slots = 0 if self._draining.is_set() else self._slots
        try:
            lost = self._planner.renew(self._name, slots=slots, worker_info=worker_info, held=held)
        except RedisError as error:
            log.warning("heartbeat.store_unreachable", error=str(error))
            return
        if lost:
            log.info("heartbeat.leases_lost", jobs=[dispatch.job_id for dispatch in lost])
            self._active.mark_lost(lost)

    def _depart(self, *, gone: bool) -> None:
        try:
            self._planner.depart(self._name, gone=gone)
        except RedisError as error:
            log.warning("heartbeat.depart_failed", error=str(error))

    def _renew_loop(self) -> None:
        while not self._ended.is_set():
            self.renew()
            self._ended.wait(self._lease_s / BEATS_A_LEASE)

    def _watch_loop(self, leave: Callable[[str], None]) -> None:
        """Watch that the worker takes its messages.

        It has a thread of its own: a broker that hangs must not stop renewals.
        """
        watch = StallWatch(patience_s=self._lease_s)
        while not self._ended.wait(self._lease_s / BEATS_A_LEASE) and not self._draining.is_set():
            taken, free = self._consumer.taken, self._consumer.free
            # The broker is asked only where a thread is free and no message was taken since the last look.
            backlog = self._consumer.backlog() if free > 0 and taken == watch.taken else None
            watch, verdict = watch.after(Observation(time.monotonic(), taken, free, backlog))
            if verdict is Verdict.RESTART:
                log.error("heartbeat.stalled", backlog=backlog, free=free, then="the consumer is restarted")
                self._consumer.restart()
            elif verdict is Verdict.LEAVE:
                leave(f"it takes none of the {backlog} messages in its queues, also after a restart of its consumer")
                break
        self._consumer.close()

    def _plan_loop(self) -> None:
        while not self._ended.is_set():
            self._active.changed.clear()
            wait_s = MAX_PLAN_PAUSE_S
            if not self._draining.is_set():
                try:
                    next_in_s = self._dispatch()
                except RedisError as error:
                    log.warning("heartbeat.plan_failed", error=str(error))
                except Exception:
                    log.exception("heartbeat.plan_failed")
                else:
                    if next_in_s is not None:
                        wait_s = min(MAX_PLAN_PAUSE_S, max(MIN_PLAN_PAUSE_S, next_in_s))
            self._active.changed.wait(wait_s)


def heartbeat_step(
    heartbeat: Heartbeat, consumer: QueueConsumer, leave: Callable[[str], None]
) -> type[bootsteps.StartStopStep]:
    """The bootstep that starts a heartbeat with its worker. `Drain` ends the heartbeat after the last task."""

    class HeartbeatStep(bootsteps.StartStopStep):
        requires = ("celery.worker.components:Pool",)

        def start(self, worker: object) -> None:
            consumer.bind(worker)
            heartbeat.start(leave)

    return HeartbeatStep
