"""Tidying the indexes: one worker of the fleet takes a step a minute."""

import threading
from collections.abc import Callable

import structlog
from redis.exceptions import RedisError

from jobs.wiring import Domain

EVERY_S = 60.0

log = structlog.get_logger(__name__)


def start_tidying(domain: Domain) -> Callable[..., None]:
    """Tidy until the process ends; returns what ends it."""
    stop = threading.Event()

    def walk() -> None:
        while not stop.wait(EVERY_S):
            try:
                # Whoever sets it first takes this minute's step.
                if domain.redis.set(domain.keys.index_cleanup_lock, "1", nx=True, px=int(EVERY_S * 900)):
                    removed = domain.tidying.step()
                    log.debug("tidying.stepped", removed=removed)
            except RedisError as error:
                log.warning("tidying.store_unreachable", error=str(error))

    threading.Thread(target=walk, name="tidying", daemon=True).start()
    return lambda **_: stop.set()
