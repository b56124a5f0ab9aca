"""The end of a worker: no new claims, a grace period for the attempts that run, and the rest handed back."""

import os
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from types import FrameType

import structlog
from redis.exceptions import RedisError

from jobs.foundation.errors import Interrupted
from jobs.plan.planner import Planner
from jobs.plan.settlement import Settlement
from workers.edits.active_attempts import ActiveAttempts
from workers.process.flower_events import EventFlow
from workers.process.heartbeat import Heartbeat

EX_TEMPFAIL = 75
"""The exit status of a worker that must be started again (sysexits.h)."""

log = structlog.get_logger(__name__)


class Drain:
    """Ends a worker.

    Args:
        planner: takes back the attempts that did not end in time.
        active: the attempts of the worker.
        heartbeat: continues until the last attempt has ended.
        events: of tasks; the last ones are sent at the end.
        close: closes the connections of the process.
        grace_s: how long the attempts that run may take, in seconds.
    """

    def __init__(
        self,
        planner: Planner,
        active: ActiveAttempts,
        heartbeat: Heartbeat,
        events: EventFlow,
        *,
        close: Callable[[], None],
        grace_s: float,
    ) -> None:
        self._planner = planner
        self._active = active
        self._heartbeat = heartbeat
        self._events = events
        self._close = close
        self._grace_s = grace_s
        self._handing_back = threading.Lock()
        self.status = 0
        """The exit status of the process."""

    def begin(self, **_: object) -> None:
        """SIGTERM or SIGINT came: Celery stops consuming and waits for its threads."""
        log.info("worker.draining", grace_s=self._grace_s, held=len(self._active.claims()))
        threading.Thread(target=self._heartbeat.drain, name="drain", daemon=True).start()
        self._hand_back_after_grace()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._second_signal)

    def leave(self, why: str) -> None:
        """The worker takes no messages any more: drain it, and end with a status that asks for a restart."""
        log.error("worker.leaving", why=why)
        self.status = EX_TEMPFAIL
        # The timer starts here, too: the main thread handles signals, and it may be blocked.
        self._hand_back_after_grace()
        os.kill(os.getpid(), signal.SIGTERM)

    def finish(self) -> None:
        """Every task has ended: send the last events, and close everything."""
        self._events.finish()
        self._heartbeat.end()
        self._close()

    def _hand_back_after_grace(self) -> None:
        timer = threading.Timer(self._grace_s, self._hand_back, ["the grace period is over"])
        timer.daemon = True
        timer.start()

    def _second_signal(self, _number: int, _frame: FrameType | None) -> None:
        threading.Thread(target=self._hand_back, args=["a second signal came"], name="hand-back").start()

    def _hand_back(self, why: str) -> None:
        """Hand back the attempts that still run, and exit: a thread that waits for the network cannot be stopped."""
        with self._handing_back:
            self._active.interrupt()
            claims = self._active.claims()
            log.warning("worker.handing_back", why=why, jobs=[claim.job_id for claim in claims])
            interrupted = Interrupted("the worker was stopped before the job was done")
            settlement = Settlement.back_to_lane(interrupted, "handed_back")
            for claim in claims:
                called = self._active.has_called(claim)
                try:
                    self._planner.settle(claim, settlement, finished_at=datetime.now(UTC), suspect=called)
                except RedisError as error:
                    log.warning("worker.not_handed_back", job_id=claim.job_id, error=str(error))
            self._events.finish()
            self._heartbeat.end()
            os._exit(self.status)
