"""A worker process: Celery over threads, with a pulse, a drain, and no state of its own that matters."""

import os
import signal
import socket
import threading
import time
from datetime import UTC, datetime
from secrets import token_hex
from types import FrameType

import structlog
from celery.signals import setup_logging, worker_shutting_down
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from jobs.foundation.errors import Interrupted
from jobs.foundation.logs import configure_logging
from jobs.foundation.settings import Settings
from jobs.plan.settlement import Settlement
from jobs.queueing.celery_app import CHORES, WEBHOOKS
from jobs.wiring import Domain
from workers.background.index_cleanup import start_tidying
from workers.background.schedule_poller import start_firing
from workers.background.tasks import register_chores, start_looking
from workers.edits.active_attempts import Held
from workers.edits.task import Editor, register_edit
from workers.process.consumer import Consuming
from workers.process.flower_events import EventFlow
from workers.process.heartbeat import Pulse, step_of
from workers.process.metrics import WorkerMetrics
from workers.process.thread_pool import Threads
from workers.webhooks.start import start_telling

EX_TEMPFAIL = 75
"""The exit status of a worker that wants to be started again, as sysexits.h has it."""
STORE_S = 60.0
"""How long a worker that is started waits for the store, in seconds."""

log = structlog.get_logger(__name__)


def run_worker(
    settings: Settings, *, queues: list[str], concurrency: int, grace_s: float = 60.0, name: str | None = None
) -> int:
    """Serve queues until SIGTERM; then take nothing new, finish within the grace, hand the rest back.

    Args:
        settings: of this process.
        queues: `edits`, `webhooks`.
        concurrency: threads.
        grace_s: how long running tasks may take to end after SIGTERM, in seconds. A second signal ends it at once.
        name: the worker's, one of a kind; made from the host where not given.

    Returns:
        The process's exit status.
    """
    configure_logging(settings)
    domain = Domain.open(settings)
    _register_models(domain)
    name = name or f"{'-'.join(queues)}-{token_hex(3)}@{socket.gethostname()}"
    held = Held()
    threads = Threads.of(queues, concurrency)
    app = domain.celery
    consuming = Consuming(app, queues, threads.pool)
    pulse = Pulse(domain, held, consuming, name=name, slots=threads.edits, queues=queues)
    metrics = WorkerMetrics(lambda: len(held.claims())) if settings.metrics_port is not None else None
    register_edit(app, Editor(domain, held, name, listeners=[metrics.attempt] if metrics else []))
    drain = Drain(domain, held, pulse, EventFlow(app), grace_s)
    app.steps["worker"].add(step_of(pulse, consuming, drain.leave))
    setup_logging.connect(_keep_logging, weak=False)
    worker_shutting_down.connect(drain.begin, weak=False)
    if CHORES in queues:
        register_chores(app, domain)
    worker_shutting_down.connect(start_looking(domain), weak=False)
    worker_shutting_down.connect(start_firing(domain), weak=False)
    worker_shutting_down.connect(start_tidying(domain), weak=False)
    if WEBHOOKS in queues:
        listeners = [metrics.exchange] if metrics else []
        end_telling = start_telling(app, domain, threads=threads.deliveries, name=name, listeners=listeners)
        worker_shutting_down.connect(end_telling, weak=False)
    if metrics is not None and settings.metrics_port is not None:
        metrics.serve(settings.metrics_address, settings.metrics_port)
    worker = app.Worker(
        hostname=name,
        pool="threads",
        concurrency=threads.pool,
        queues=queues,
        without_gossip=True,
        without_mingle=True,
        task_events=settings.task_events,
        quiet=True,
        loglevel=settings.log_level,
    )
    log.info("worker.started", name=name, queues=queues, concurrency=concurrency)
    worker.start()
    drain.finish()
    log.info("worker.ended", name=name)
    return drain.status or worker.exitcode or 0


def _register_models(domain: Domain) -> None:
    """Make the models known, as soon as the store answers: a worker may be started while it is away.

    Raises:
        RedisError: it refuses, or is away for longer than `STORE_S`.
    """
    deadline = time.monotonic() + STORE_S
    while True:
        try:
            domain.planner.register_models()
        except (RedisConnectionError, RedisTimeoutError) as error:
            if isinstance(error, AuthenticationError) or time.monotonic() > deadline:
                raise
            log.warning("worker.store_unreachable", error=str(error))
            time.sleep(1)
        else:
            return


class Drain:
    """The end of a worker: no new claims, a grace for what runs, and the rest handed back.

    Args:
        domain: what the process works with.
        held: the attempts the worker holds.
        pulse: goes on until the last attempt has ended.
        events: of tasks; those of the last ones are told at the end.
        grace_s: seconds for what runs.
    """

    def __init__(self, domain: Domain, held: Held, pulse: Pulse, events: EventFlow, grace_s: float) -> None:
        self._domain = domain
        self._events = events
        self._held = held
        self._pulse = pulse
        self._grace_s = grace_s
        self._handing_back = threading.Lock()
        self.status = 0
        """What the process is to end with."""

    def begin(self, **_: object) -> None:
        """SIGTERM or SIGINT came: Celery stops consuming and waits for its threads."""
        log.info("worker.draining", grace_s=self._grace_s, held=len(self._held.claims()))
        threading.Thread(target=self._pulse.drain, name="drain", daemon=True).start()
        self._give_up_after_grace()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._second_signal)

    def leave(self, why: str) -> None:
        """The worker is of no use any more: drain it, and end with a status that has it started again."""
        log.error("worker.leaving", why=why)
        self.status = EX_TEMPFAIL
        # Signals are handled by the main thread, which may be what is stuck.
        self._give_up_after_grace()
        os.kill(os.getpid(), signal.SIGTERM)

    def finish(self) -> None:
        """Every task has ended."""
        self._events.finish()
        self._pulse.end()
        self._domain.close()

    def _give_up_after_grace(self) -> None:
        timer = threading.Timer(self._grace_s, self._give_up, ["the grace period is over"])
        timer.daemon = True
        timer.start()

    def _second_signal(self, _number: int, _frame: FrameType | None) -> None:
        threading.Thread(target=self._give_up, args=["a second signal came"], name="give-up").start()

    def _give_up(self, why: str) -> None:
        """Hand back what is still held, and end: threads that wait for the network cannot be ended otherwise."""
        with self._handing_back:
            self._held.interrupt()
            claims = self._held.claims()
            log.warning("worker.handing_back", why=why, jobs=[claim.job_id for claim in claims])
            settlement = Settlement.back_to_lane(
                Interrupted("the worker was stopped before the job was done"), "handed_back"
            )
            for claim in claims:
                try:
                    self._domain.planner.settle(
                        claim, settlement, finished_at=datetime.now(UTC), suspect=self._held.has_called(claim)
                    )
                except RedisError as error:
                    log.warning("worker.not_handed_back", job_id=claim.job_id, error=str(error))
            self._events.finish()
            self._pulse.end()
            os._exit(self.status)


def _keep_logging(**_: object) -> None:
    """Connected to Celery's `setup_logging`: where something is connected, Celery leaves logging alone."""
