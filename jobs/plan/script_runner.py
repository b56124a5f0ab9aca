"""Running the Lua scripts that change records: the common KEYS and ARGV, and one clock."""

from collections.abc import Callable, Sequence
from typing import Any

from redis import Redis
from redis.commands.core import Script

from jobs.foundation.redis_keys import Keys
from jobs.plan import lua_loader


class ScriptRunner:
    """Runs scripts by name on one Redis or Valkey. Safe in any number of processes and threads at once.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
        retention_s: how long a finished job's record is kept, in seconds.
        lease_s: how long a claim lives without a heartbeat, in seconds.
        clock_ms: milliseconds since 1970 for tests; by default the server's own clock, the only one of the fleet.
    """

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        *,
        retention_s: float,
        lease_s: float = 30,
        clock_ms: Callable[[], int] | None = None,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._header = (int(retention_s * 1000), int(lease_s * 1000))
        self._clock_ms = clock_ms
        self._scripts: dict[str, Script] = {}

    def run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script and return its answer.

        Args:
            name: of its file below `jobs/lua/`, without the ending.
            keys: its KEYS from 6 on; the common keys come before them.
            args: its ARGV from 4 on; the time, the retention and the lease come before them.
        """
        if name not in self._scripts:
            self._scripts[name] = lua_loader.load(self._redis, name)
        now = self._clock_ms() if self._clock_ms else 0
        return self._scripts[name](keys=[*self._keys.common_keys, *keys], args=[now, *self._header, *args])
