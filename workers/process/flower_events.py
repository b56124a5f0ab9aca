"""What a worker tells Flower of its tasks: many events in one message.

Over a pool of threads, Celery 5.7's own dispatcher publishes each event alone, from the thread of its task: that adds 7
to 11 % to the CPU time of an edit, this about 1 % (`infra.bench.monitoring`). What it costs: a worker that is killed
takes the events of its last tenth of a second with it.
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
"""How long an event may wait for others."""
LAST_S = 3.0
"""How long the last events may take."""
MOST = 100_000
"""Events that are kept at most; the threads of tasks never publish themselves."""

log = structlog.get_logger(__name__)


class TaskEvents(EventDispatcher):
    """Celery's dispatcher, which keeps the events of tasks until a flush, and takes them also when it is closed."""

    _group_buffer: defaultdict[str, list[dict[str, Any]]]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "buffer_group": ["task"], "buffer_limit": MOST, "on_send_buffered": None})

    def disable(self) -> None:
        """Publish nothing more; what tasks still tell is kept."""
        self.close()
        callbacks: Any = self.on_disabled
        for callback in callbacks:
            callback()

    def extend_buffer(self, other: EventDispatcher) -> None:
        """Take over what another one has not published."""
        super().extend_buffer(other)
        kept = other._group_buffer if isinstance(other, TaskEvents) else {}  # noqa: SLF001 - of its own class
        for group, events in kept.items():
            self._group_buffer[group].extend(events)


class EventFlow:
    """Flushes a worker's events some times a second, and once more when its last task has ended.

    Args:
        app: the worker's.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._dispatcher: TaskEvents | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._flowing, name="events", daemon=True)
        app.events.dispatcher_cls = f"{__name__}:{TaskEvents.__name__}"
        app.steps["consumer"].add(self._step())

    def _step(self) -> type[bootsteps.StartStopStep]:
        flow = self

        class FlowStep(bootsteps.StartStopStep):
            requires = (Events,)

            def start(self, consumer: Any) -> None:
                """Also after each new connection: the dispatcher is another one then."""
                flow.take(consumer.event_dispatcher)

        return FlowStep

    def take(self, dispatcher: TaskEvents) -> None:
        """Flush this one from now on."""
        self._dispatcher = dispatcher
        if not self._thread.is_alive() and not self._ended.is_set():
            self._thread.start()

    def _flowing(self) -> None:
        while not self._ended.wait(BEAT_S):
            if self._dispatcher is not None:
                self._dispatcher.flush()

    def finish(self) -> None:
        """Every task has ended: tell what has not been told. A broker that hangs is not waited for."""
        self._ended.set()
        last = threading.Thread(target=self._tell_rest, name="last events", daemon=True)
        last.start()
        last.join(LAST_S)

    def _tell_rest(self) -> None:
        """Over a connection of its own: Celery has closed the dispatcher's."""
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
            log.warning("events.not_told", error=str(error))
