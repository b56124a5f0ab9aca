"""A worker process: Celery over threads, with a heartbeat and a drain. A lost process loses nothing that matters."""

import socket
import time
from secrets import token_hex

import structlog
from celery.signals import setup_logging, worker_shutting_down
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from jobs.foundation.logs import configure_logging
from jobs.foundation.settings import Settings
from jobs.plan.planner import Planner
from jobs.queueing.celery_app import BACKGROUND, WEBHOOKS
from jobs.wiring import Domain
from workers.background import index_cleanup as tidying
from workers.background import schedule_poller as firing
from workers.background import tasks as chores
from workers.background.tasks import register_background_tasks
from workers.edits.active_attempts import ActiveAttempts
from workers.edits.task import register_edit
from workers.process.consumer import QueueConsumer
from workers.process.drain import Drain
from workers.process.flower_events import EventFlow
from workers.process.heartbeat import Heartbeat, heartbeat_step
from workers.process.metrics import WorkerMetrics
from workers.process.polling import start_poller
from workers.process.thread_pool import Threads
from workers.process.wiring import (
    build_background_tasks,
    build_deliverer,
    build_editor,
    build_index_cleanup,
    build_outbox_reader,
    build_schedule_poller,
)
from workers.webhooks.send import register_deliver
from workers.webhooks.start import start_outbox_reader

STORE_WAIT_S = 60.0
"""How long a starting worker waits for the store, in seconds."""

log = structlog.get_logger(__name__)


def run_worker(
    settings: Settings, *, queues: list[str], concurrency: int, grace_s: float = 60.0, name: str | None = None
) -> int:
    """Serve queues until SIGTERM; then take nothing new, finish within the grace period, and hand the rest back.

    Args:
        settings: of this process.
        queues: names of `jobs.queueing.celery_app.QUEUES`.
        concurrency: threads.
        grace_s: how long running tasks may take after SIGTERM, in seconds. A second signal ends it at once.
        name: the worker's, one of a kind; generated from the host name unless given.

    Returns:
        The process's exit status.

    Raises:
        ConfigurationError: the catalogue or the address of the metrics cannot be used.
        redis.exceptions.RedisError: the store refuses, or does not answer for `STORE_WAIT_S`.
    """
    configure_logging(settings)
    domain = Domain.open(settings)
    _register_models(domain.planner)
    name = name or f"{'-'.join(queues)}-{token_hex(3)}@{socket.gethostname()}"
    threads = Threads.of(queues, concurrency)
    active = ActiveAttempts()
    metrics = WorkerMetrics(lambda: len(active.claims())) if settings.metrics_port is not None else None
    drain = _start_parts(domain, active, threads, metrics, name=name, queues=queues, grace_s=grace_s)
    if metrics is not None and settings.metrics_port is not None:
        metrics.serve(settings.metrics_address, settings.metrics_port)
    worker = domain.celery.Worker(
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


def _start_parts(
    domain: Domain,
    active: ActiveAttempts,
    threads: Threads,
    metrics: WorkerMetrics | None,
    *,
    name: str,
    queues: list[str],
    grace_s: float,
) -> Drain:
    """Register the tasks, start the pollers, and connect the signals of Celery. Returns what ends the worker."""
    app = domain.celery
    consumer = QueueConsumer(app, queues, threads.pool)
    heartbeat = Heartbeat(
        domain.planner,
        domain.edit_loop.dispatch,
        active,
        consumer,
        lease_s=domain.settings.lease_s,
        name=name,
        slots=threads.edits,
        queues=queues,
    )
    drain = Drain(domain.planner, active, heartbeat, EventFlow(app), close=domain.close, grace_s=grace_s)
    app.steps["worker"].add(heartbeat_step(heartbeat, consumer, drain.leave))
    setup_logging.connect(_keep_logging, weak=False)
    worker_shutting_down.connect(drain.begin, weak=False)
    register_edit(app, build_editor(domain, active, name, listeners=[metrics.attempt] if metrics else []))
    if BACKGROUND in queues:
        register_background_tasks(app, build_background_tasks(domain))
    stops = [
        start_poller("chores", chores.POLL_S, domain.task_publisher.publish_due),
        start_poller("firing", firing.POLL_S, build_schedule_poller(domain).fire),
        start_poller("tidying", tidying.EVERY_S, build_index_cleanup(domain).step),
    ]
    if WEBHOOKS in queues:
        reader = build_outbox_reader(domain, threads=threads.deliveries, name=name)
        listeners = [metrics.exchange] if metrics else []
        register_deliver(app, build_deliverer(domain, changed=reader.changed, listeners=listeners))
        stops.append(start_outbox_reader(reader))
    for stop in stops:
        worker_shutting_down.connect(stop, weak=False)
    return drain


def _register_models(planner: Planner) -> None:
    """Register the models in the store; a worker may be started while the store is down.

    Raises:
        redis.exceptions.RedisError: the store refuses, or does not answer for `STORE_WAIT_S`.
    """
    deadline = time.monotonic() + STORE_WAIT_S
    while True:
        try:
            planner.register_models()
        except (RedisConnectionError, RedisTimeoutError) as error:
            if isinstance(error, AuthenticationError) or time.monotonic() > deadline:
                raise
            log.warning("worker.store_unreachable", error=str(error))
            time.sleep(1)
        else:
            return


def _keep_logging(**_: object) -> None:
    """Connected to Celery's `setup_logging`: while a receiver is connected, Celery does not configure logging."""
