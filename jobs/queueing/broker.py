"""The Celery app's configuration, the names of tasks and queues, and the only code that publishes."""

from collections.abc import Iterable, Sequence
from typing import Any

import structlog
from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from jobs.foundation.errors import Unavailable
from jobs.foundation.settings import Settings
from jobs.plan.planner import Planner
from jobs.plan.records import Dispatch
from jobs.queueing.background_tasks import Chores, Kind

EDIT, DELIVER = "edit", "deliver"
"""Names of the tasks; those of chores are their kinds."""
EDITS, WEBHOOKS, CHORES = "edits", "webhooks", "ingest"
QUEUE_OF = {EDIT: EDITS, DELIVER: WEBHOOKS, **{kind.value: CHORES for kind in Kind}}
"""Which queue a task's messages go to. What is not an edit never takes an edit's thread."""
QUEUES = (EDITS, WEBHOOKS, CHORES)
MOST_A_BATCH = 100

log = structlog.get_logger(__name__)


def make_celery(settings: Settings) -> Celery:
    """A Celery app for publishing, for a worker, or for Flower.

    Early acknowledgement, no prefetch, no results and no delayed messages: a job's lease protects it, and what waits
    waits in the plan. With late acknowledgement or prefetched messages, a worker of Celery 5.7.0 exits when its Redis
    broker dies, and dropped connections run tasks again.
    """
    app = Celery("retouch", broker=settings.broker, set_as_current=False)
    prefix = settings.key_prefix
    over_redis = settings.broker.startswith(("redis", "valkey"))
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=False,
        task_default_queue=EDITS,
        task_queues=[Queue(name, Exchange(name, type="direct"), routing_key=name) for name in QUEUES],
        task_routes={task: {"queue": queue} for task, queue in QUEUE_OF.items()},
        task_create_missing_queues=False,
        task_send_sent_event=False,
        # Over RabbitMQ a worker that had its prefetch reduced when the connection was lost takes no more messages.
        worker_disable_prefetch=over_redis,
        worker_enable_prefetch_count_reduction=over_redis,
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "global_keyprefix": f"{prefix}celery:",
            # Leases protect what a message stands for. A list of the unacknowledged would cost two round trips a
            # message, and restoring one when the broker has died makes a worker of Celery 5.7.0 exit.
            "ack_emulation": False,
            "socket_connect_timeout": 5,
            "socket_timeout": 30,
            "socket_keepalive": True,
            "health_check_interval": 10,
            # Whoever publishes finds out at once that the broker is away: the plan keeps the job, and tries again.
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0,
            "interval_max": 0,
        },
        event_queue_prefix="celeryev",
        result_backend=None,
        enable_utc=True,
        timezone="UTC",
    )
    return app


class Broker:
    """Publishing to Celery's broker.

    Args:
        app: see `make_celery`.
        planner: whose dispatches are published.
    """

    def __init__(self, app: Celery, planner: Planner) -> None:
        self.app = app
        self._planner = planner

    def dispatch(self) -> float | None:
        """Plan, and publish what the plan started. Any process may, at any time.

        A broker that is down costs nothing but time: what could not be published loses its lease, unused, and is
        planned again.

        Returns:
            Seconds until there may be more to do; None: not by the clock alone.
        """
        while True:
            plan = self._planner.plan(limit=MOST_A_BATCH)
            if plan.dispatches:
                try:
                    self.publish_edits(plan.dispatches)
                except OperationalError as error:
                    log.warning("broker.unreachable", error=str(error), held_back=len(plan.dispatches))
                    return 1.0
            if len(plan.dispatches) < MOST_A_BATCH:
                return plan.next_in_s

    def publish_edits(self, dispatches: Sequence[Dispatch]) -> None:
        """One message an attempt; its task id is the job's id."""
        self._publish(EDIT, [(one.job_id, [one.job_id, one.attempt]) for one in dispatches])

    def publish_deliveries(self, deliveries: Sequence[tuple[str, int]]) -> None:
        """One message a delivery id and try."""
        self._publish(DELIVER, [(delivery_id, [delivery_id, number]) for delivery_id, number in deliveries])

    def publish_chores(self, chores: Iterable[tuple[Kind, str]]) -> None:
        """One message a chore; a broker that is down only delays them, for they stay due."""
        try:
            for kind, batch_id in chores:
                self._publish(kind.value, [(f"{kind}-{batch_id}", [batch_id])])
        except OperationalError as error:
            log.warning("broker.unreachable", error=str(error))

    def _publish(self, task: str, messages: Sequence[tuple[str, list[Any]]]) -> None:
        """Messages of one task, `(task id, arguments)`, in one round trip.

        Raises:
            OperationalError: the broker does not answer; some may have been published.
        """
        with self.app.producer_or_acquire() as producer, producer.batch(max_size=4 * MOST_A_BATCH):
            for task_id, args in messages:
                self.app.send_task(task, args=args, task_id=task_id, producer=producer, retry=False)

    def check(self) -> None:
        """Raise OperationalError where the broker does not answer."""
        with self.app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=2)


class ChorePublisher:
    """Publishes the chores that are due.

    Args:
        broker: publishes them.
        chores: says which are due.
    """

    def __init__(self, broker: Broker, chores: Chores) -> None:
        self._broker = broker
        self._chores = chores

    def publish_due(self) -> None:
        """Publish one message for each chore that is due.

        A store that does not answer is logged: every worker publishes due chores every few seconds, too.
        """
        try:
            self._broker.publish_chores(self._chores.due())
        except (RedisError, Unavailable) as error:
            log.warning("chores.not_published", error=str(error))
