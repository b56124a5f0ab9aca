"""What a worker takes from its queues, how many messages wait there, and how to restart its consumer."""

import threading
from typing import Any

import structlog
from celery import Celery
from celery.signals import task_postrun, task_prerun
from kombu import Connection

FREE_AFTER_S = 0.002
"""From the end of a task to the moment when Celery counts its thread as free, in seconds."""

log = structlog.get_logger(__name__)


class QueueConsumer:
    """Counts a worker's messages, and restarts the worker's consumer.

    Args:
        app: the worker's.
        queues: the names of the worker's queues.
        threads: how many tasks the worker runs at once.
    """

    def __init__(self, app: Celery, queues: list[str], threads: int) -> None:
        self._app = app
        self._queues = queues
        self._threads = threads
        self._lock = threading.Lock()
        self._running = 0
        self._connection: Connection | None = None
        self._worker: Any = None
        self.taken = 0
        """Messages since the worker was started."""
        task_prerun.connect(self._task_started, weak=False)
        task_postrun.connect(self._task_ended, weak=False)

    @property
    def free(self) -> int:
        """Threads that run no task."""
        return self._threads - self._running

    def bind(self, worker: object) -> None:
        """Set Celery's controller, which has the consumer."""
        self._worker = worker

    def backlog(self) -> int | None:
        """Messages in the queues that no worker has taken; None where the broker does not answer.

        Only one thread may call it.
        """
        try:
            if self._connection is None:
                self._connection = self._app.connection_for_read()
                self._connection.ensure_connection(max_retries=1, timeout=2)
            return sum(self._size(self._connection, queue) for queue in self._queues)
        except Exception as error:  # noqa: BLE001 - transports raise errors of many types; the next call tries again
            log.info("consuming.broker_unreachable", error=str(error))
            self.close()
            return None

    def restart(self) -> None:
        """Make the consumer reconnect and take from all its queues, as after a lost connection."""

        def reconnect() -> None:
            self._app.amqp.queues.select(self._queues)
            raise ConnectionResetError("the worker takes none of the messages in its queues")

        consumer = getattr(self._worker, "consumer", None)
        if consumer is not None:
            consumer.call_soon(reconnect)

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()

    def _size(self, connection: Connection, queue: str) -> int:
        channel: Any = connection.default_channel
        # It is declared as the consumer declares it. For a passive declaration, kombu 5.7 ignores the key prefix.
        named = self._app.amqp.queues[queue]
        return int(channel.queue_declare(queue, durable=named.durable, auto_delete=named.auto_delete).message_count)

    def _task_started(self, **_: object) -> None:
        with self._lock:
            self.taken += 1
            self._running += 1

    def _task_ended(self, **_: object) -> None:
        with self._lock:
            full = self._running >= self._threads
            self._running -= 1
        if full:
            self._wake_loop()

    def _wake_loop(self) -> None:
        """A thread is free. Without an event, Celery's loop would notice that up to a second later."""
        consumer = getattr(self._worker, "consumer", None)
        hub = getattr(consumer, "hub", None)
        if hub is not None:
            # Celery removes the task from its list after this signal, so the loop runs again a moment later.
            hub.call_soon(lambda: hub.call_later(FREE_AFTER_S, lambda: None))
