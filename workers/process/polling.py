"""Threads that repeat a step until the worker drains."""

import threading
from collections.abc import Callable

import structlog
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)


def start_poller(name: str, every_s: float, step: Callable[[], object]) -> Callable[..., None]:
    """Repeat a step in a daemon thread. A failure is logged, and the step runs again after the pause.

    Args:
        name: of the thread and of its log events.
        every_s: seconds between two steps.
        step: what to do.

    Returns:
        A function that stops the thread. A signal of Celery may call it.
    """
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(every_s):
            try:
                step()
            except RedisError as error:
                log.warning("poller.store_unreachable", poller=name, error=str(error))
            except Exception:
                log.exception("poller.failed", poller=name)

    threading.Thread(target=poll, name=name, daemon=True).start()
    return lambda **_: stop.set()
