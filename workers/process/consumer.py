"""What a worker takes from its queues, what it leaves lying there, and the way to make it take again."""

import threading
from typing import Any

import structlog
from celery import Celery
from celery.signals import task_postrun, task_prerun
from kombu import Connection

FREED_S = 0.002
"""From a task's end to when Celery counts its thread as free, in seconds."""

log = structlog.get_logger(__name__)


class Consuming:
    """Counts a worker's messages, and restarts its consumer.

    Args:
        app: the worker's.
        queues: what it serves.
        threads: how many tasks it runs at once.
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
        """Messages since it was started."""
        task_prerun.connect(self._begun, weak=False)
        task_postrun.connect(self._done, weak=False)

    @property
    def free(self) -> int:
        """Threads that have nothing to do."""
        return self._threads - self._running

    def bind(self, worker: object) -> None:
        """Celery's controller, whose consumer it is."""
        self._worker = worker

    def backlog(self) -> int | None:
        """Messages in the queues that nobody has taken; None where the broker does not say. Of one thread's use."""
        try:
            if self._connection is None:
                self._connection = self._app.connection_for_read()
                self._connection.ensure_connection(max_retries=1, timeout=2)
            return sum(self._size(self._connection, queue) for queue in self._queues)
        except Exception as error:  # noqa: BLE001 - whatever the transport raises, and it is tried again
            log.info("consuming.broker_unreachable", error=str(error))
            self.close()
            return None

    def restart(self) -> None:
        """Let the consumer connect anew and take from all its queues, as after a lost connection."""

        def again() -> None:
            self._app.amqp.queues.select(self._queues)
            raise ConnectionResetError("messages lie in the queues and none is taken")

        consumer = getattr(self._worker, "consumer", None)
        if consumer is not None:
            consumer.call_soon(again)

    def close(self) -> None:
        """Let go of the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()

    def _size(self, connection: Connection, queue: str) -> int:
        channel: Any = connection.default_channel
        # Declared as it is consumed, not passively: kombu 5.7 looks for a passive one in Redis without its key prefix.
        named = self._app.amqp.queues[queue]
        return int(channel.queue_declare(queue, durable=named.durable, auto_delete=named.auto_delete).message_count)

    def _begun(self, **_: object) -> None:
        with self._lock:
            self.taken += 1
            self._running += 1

    def _done(self, **_: object) -> None:
        with self._lock:
            full = self._running >= self._threads
            self._running -= 1
        if full:
            self._look_again()

    def _look_again(self) -> None:
        """A thread is free. Celery would notice at its loop's next turn, which without an event is a second away."""
        consumer = getattr(self._worker, "consumer", None)
        hub = getattr(consumer, "hub", None)
        if hub is not None:
            # Celery takes the task off its list only after this signal, hence the moment's wait.
            hub.call_soon(lambda: hub.call_later(FREED_S, lambda: None))
