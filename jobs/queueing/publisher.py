"""Publishing to Celery's broker; no other module publishes."""

from collections.abc import Iterable, Sequence
from typing import Any

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from jobs.foundation.errors import Unavailable
from jobs.plan.records import Dispatch
from jobs.queueing.background_tasks import BackgroundTasks, TaskKind
from jobs.queueing.celery_app import DELIVER, EDIT

PIPELINE_SIZE = 400
"""How many messages go to the broker in one round trip at most."""

log = structlog.get_logger(__name__)


class Publisher:
    """Publishes the messages of tasks.

    Args:
        app: the Celery app, see `make_celery`.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app

    def publish_edits(self, dispatches: Sequence[Dispatch]) -> None:
        """Publish one message for each attempt; its task id is the job's id.

        Raises:
            OperationalError: the broker does not answer; some messages may have been published.
        """
        self._publish(EDIT, [(one.job_id, [one.job_id, one.attempt]) for one in dispatches])

    def publish_deliveries(self, deliveries: Sequence[tuple[str, int]]) -> None:
        """Publish one message for each `(delivery id, number of the attempt)`.

        Raises:
            OperationalError: the broker does not answer; some messages may have been published.
        """
        self._publish(DELIVER, [(delivery_id, [delivery_id, number]) for delivery_id, number in deliveries])

    def publish_background_tasks(self, chores: Iterable[tuple[TaskKind, str]]) -> None:
        """Publish one message for each background task. A broker outage is logged: the tasks stay due."""
        try:
            for kind, batch_id in chores:
                self._publish(kind.value, [(f"{kind}-{batch_id}", [batch_id])])
        except OperationalError as error:
            log.warning("broker.unreachable", error=str(error))

    def _publish(self, task: str, messages: Sequence[tuple[str, list[Any]]]) -> None:
        """Publish messages of one task, `(task id, arguments)`, in one round trip."""
        with self._app.producer_or_acquire() as producer, producer.batch(max_size=PIPELINE_SIZE):
            for task_id, args in messages:
                self._app.send_task(task, args=args, task_id=task_id, producer=producer, retry=False)

    def check(self) -> None:
        """Connect to the broker once.

        Raises:
            OperationalError: the broker does not answer.
        """
        with self._app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=2)


class TaskPublisher:
    """Publishes the background tasks that are due.

    Args:
        publisher: publishes them.
        chores: says which are due.
    """

    def __init__(self, publisher: Publisher, chores: BackgroundTasks) -> None:
        self._publisher = publisher
        self._chores = chores

    def publish_due(self) -> None:
        """Publish one message for each background task that is due.

        A store that does not answer is logged: every worker publishes due tasks every few seconds, too.
        """
        try:
            self._publisher.publish_background_tasks(self._chores.due())
        except (RedisError, Unavailable) as error:
            log.warning("chores.not_published", error=str(error))
