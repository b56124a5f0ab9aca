"""Repeating a step while the store is down."""

from collections.abc import Callable
from typing import TypeVar

import structlog
from redis.exceptions import RedisError

STORE_PAUSE_S = 0.5
"""How long a store that is down is left alone, in seconds."""

T = TypeVar("T")
log = structlog.get_logger(__name__)


def retry_while_store_down(
    step: Callable[[], T], *, pause: Callable[[float], object], give_up: Callable[[], bool]
) -> T:
    """Repeat a step that needs the store until the store answers: its caller holds work that must not be lost.

    Args:
        step: what to do.
        pause: waits for so many seconds.
        give_up: whether to stop; asked after each failure.

    Raises:
        RedisError: the store is down and `give_up` returned True.
    """
    while True:
        try:
            return step()
        except RedisError as error:
            if give_up():
                raise
            log.warning("store.unreachable", error=str(error))
            pause(STORE_PAUSE_S)
