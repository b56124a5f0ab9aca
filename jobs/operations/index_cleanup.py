"""Cleans the indexes. Records expire in Redis, but their members in sorted sets do not.

The cleaner visits the indexes chunk by chunk and stores its position in Redis, so that any process can take the next
step. An expired record never returns, so two steps at the same time do no harm.
"""

from collections.abc import Iterator

from redis import Redis

from jobs.foundation.job_states import FINAL
from jobs.foundation.redis_keys import Keys

STRETCH = 1000


class IndexCleaner:
    """Removes the members of expired records from the indexes.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    def step(self, *, stretch: int = STRETCH) -> int:
        """Look at the next `stretch` members of each index; returns how many were removed.

        Raises:
            redis.exceptions.RedisError: the store does not answer.
        """
        return sum(self._tidy(index, stretch) for index in self._indexes())

    def _indexes(self) -> Iterator[str]:
        for tenant in sorted(str(name) for name in self._redis.smembers(self._keys.tenants)):
            for state in sorted(FINAL):
                yield self._keys.index(tenant, state)
            yield self._keys.custom_ids(tenant)
            yield self._keys.batches(tenant)

    def _tidy(self, index: str, stretch: int) -> int:
        after = self._redis.hget(self._keys.index_cleanup_positions, index)
        low = f"({after!s}" if after else "-"
        members = [str(member) for member in self._redis.zrangebylex(index, low, "+", start=0, num=stretch)]
        if len(members) < stretch:
            self._redis.hdel(self._keys.index_cleanup_positions, index)
        else:
            self._redis.hset(self._keys.index_cleanup_positions, index, members[-1])
        if not members:
            return 0
        pipe = self._redis.pipeline(transaction=False)
        for member in members:
            # The index of custom_ids has the job's key after a zero byte; the others have nothing but a key.
            pipe.exists(member.rpartition("\0")[2])
        gone = [member for member, there in zip(members, pipe.execute(), strict=True) if not there]
        return int(self._redis.zrem(index, *gone)) if gone else 0
