"""The events that a worker sends to Flower: many events in one message.

With a pool of threads, Celery 5.7's own dispatcher publishes each event by itself, from the thread of its task. That
adds 7 to 11 % to the CPU time of an edit; this module adds about 1 % (`infra.bench.monitoring`). The price: when a
worker is killed, the events of its last tenth of a second are lost.
"""

import threading
from collections import defaultdict
from typing import Any

import structlog
from celery import Celery, bootsteps
from celery.events.dispatcher import EventDispatcher
from celery.worker.consumer.events import Events
from kombu.exceptions import OperationalError

BEAT_S = 0.1
"""How long an event waits for others, in seconds."""
LAST_S = 3.0
"""How long sending the last events may take, in seconds."""
MAX_EVENTS = 100_000
"""How many events are buffered at most; the threads of tasks never publish."""

log = structlog.get_logger(__name__)


class TaskEvents(EventDispatcher):
    """Celery's dispatcher; it buffers the events of tasks until a flush, also while it is closed."""

    _group_buffer: defaultdict[str, list[dict[str, Any]]]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(
            *args, **{**options, "buffer_group": ["task"], "buffer_limit": MAX_EVENTS, "on_send_buffered": None}
        )

    def disable(self) -> None:
        """Stop publishing; events of tasks are still buffered."""
        self.close()
        callbacks: Any = self.on_disabled
        for callback in callbacks:
            callback()

    def extend_buffer(self, other: EventDispatcher) -> None:
        """Take over the events that another dispatcher has not published."""
        super().extend_buffer(other)
        buffered = other._group_buffer if isinstance(other, TaskEvents) else {}  # noqa: SLF001 - of its own class
        for group, events in buffered.items():
            self._group_buffer[group].extend(events)


class EventFlow:
    """Flushes a worker's events ten times a second, and once more after its last task.

    Args:
        app: the worker's.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._dispatcher: TaskEvents | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._flush_loop, name="events", daemon=True)
        app.events.dispatcher_cls = f"{__name__}:{TaskEvents.__name__}"
        app.steps["consumer"].add(self._step())

    def _step(self) -> type[bootsteps.StartStopStep]:
        flow = self

        class FlowStep(bootsteps.StartStopStep):
            requires = (Events,)

            def start(self, consumer: Any) -> None:
                """Celery calls this after each reconnect, too, with a new dispatcher."""
                flow.take(consumer.event_dispatcher)

        return FlowStep

    def take(self, dispatcher: TaskEvents) -> None:
        """Flush this dispatcher from now on."""
        self._dispatcher = dispatcher
        if not self._thread.is_alive() and not self._ended.is_set():
            self._thread.start()

    def _flush_loop(self) -> None:
        while not self._ended.wait(BEAT_S):
            if self._dispatcher is not None:
                self._dispatcher.flush()

    def finish(self) -> None:
        """Every task has ended: send the last events, within `LAST_S`; a broker that hangs stops nothing."""
        self._ended.set()
        last = threading.Thread(target=self._send_last, name="last events", daemon=True)
        last.start()
        last.join(LAST_S)

    def _send_last(self) -> None:
        """Send the last events over a new connection: Celery has closed the dispatcher's own."""
        dispatcher = self._dispatcher
        if dispatcher is None:
            return
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=2)
                dispatcher.connection = connection
                dispatcher.enable()
                dispatcher.flush()
                dispatcher.close()
        except (OperationalError, OSError) as error:
            log.warning("events.not_sent", error=str(error))
