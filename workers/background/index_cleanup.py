"""Cleaning the indexes: one worker of the fleet takes one step a minute."""

import structlog
from redis import Redis

from jobs.foundation.redis_keys import Keys
from jobs.operations.index_cleanup import IndexCleaner

EVERY_S = 60.0
_TURN_MS = 54_000
"""How long a worker that takes a step keeps the others from taking one, in milliseconds."""

log = structlog.get_logger(__name__)


class IndexCleanup:
    """Takes the steps.

    Args:
        redis: a client of the store.
        keys: names of the keys.
        cleaner: removes index entries of expired records.
    """

    def __init__(self, redis: Redis, keys: Keys, cleaner: IndexCleaner) -> None:
        self._redis = redis
        self._keys = keys
        self._cleaner = cleaner

    def step(self) -> None:
        """Take this minute's step, unless another worker has taken it.

        Raises:
            redis.exceptions.RedisError: the store does not answer.
        """
        if self._redis.set(self._keys.index_cleanup_lock, "1", nx=True, px=_TURN_MS):
            removed = self._cleaner.step()
            log.debug("index_cleanup.stepped", removed=removed)
