"""The threads of a worker that serves the queue `webhooks`."""

import threading
from collections.abc import Callable

from workers.webhooks.outbox_reader import OutboxReader


def start_outbox_reader(reader: OutboxReader) -> Callable[..., None]:
    """Start the threads of an outbox reader.

    Returns:
        A function that stops the reader; attempts that run continue. A signal of Celery may call it.
    """
    stop = threading.Event()
    threading.Thread(target=reader.run, args=(stop,), name="outbox-reader", daemon=True).start()

    def end(**_: object) -> None:
        stop.set()
        reader.changed()

    return end
