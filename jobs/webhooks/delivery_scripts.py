"""Runs the scripts about deliveries with the arguments that all of them share."""

from collections.abc import Callable, Sequence
from typing import Any

from redis import Redis

from jobs.foundation.redis_keys import Keys
from jobs.plan import lua_loader
from jobs.webhooks.delivery_models import TRANSITIONS

LEASE_S = 30.0
"""How long an attempt may take from its start, and again from its claim, in seconds: longer than an exchange."""
SUCCEEDED_KEPT_S = 3 * 86_400
"""How long a succeeded delivery is kept, in seconds. An exhausted delivery is kept as long as jobs are."""
SCRIPTS = ("fan_out", "plan", "claim", "settle", "redeliver", "register_worker", "send_digest")


class DeliveryScripts:
    """The scripts of `lua/deliveries`.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
        retention_s: how long an exhausted delivery is kept, in seconds.
        lease_s: see `LEASE_S`.
        clock_ms: milliseconds since 1970 for tests; by default the server's own clock.
    """

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        *,
        retention_s: float,
        lease_s: float = LEASE_S,
        clock_ms: Callable[[], int] | None = None,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._lease_ms = int(lease_s * 1000)
        self._clock_ms = clock_ms
        self._scripts = {name: lua_loader.load(redis, f"deliveries/{name}", TRANSITIONS) for name in SCRIPTS}
        self.exhausted_kept_s = retention_s
        self.succeeded_kept_s = min(SUCCEEDED_KEPT_S, retention_s)

    def run(self, name: str, keys: Sequence[str], args: Sequence[Any], client: Any = None) -> Any:
        """Run a script.

        Args:
            name: one of `SCRIPTS`.
            keys: the script's own keys, which follow the common ones.
            args: the script's own arguments, which follow the common ones.
            client: a pipeline to run it in.

        Returns:
            The script's answer.
        """
        now_ms = self._clock_ms() if self._clock_ms else 0
        retention_ms = (int(self.succeeded_kept_s * 1000), int(self.exhausted_kept_s * 1000))
        return self._scripts[name](
            keys=[*self._keys.delivery_keys, *keys], args=[now_ms, self._lease_ms, *retention_ms, *args], client=client
        )

    def now_ms(self) -> int:
        """The server's time, in milliseconds since 1970."""
        if self._clock_ms:
            return self._clock_ms()
        seconds, micros = self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000
