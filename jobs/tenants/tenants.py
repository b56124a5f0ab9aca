"""Tenants and the secrets that sign their webhooks."""

import re
import time
from typing import Any

from redis import Redis

from jobs.foundation.errors import InvalidInput
from jobs.foundation.redis_keys import TENANT_LABEL, Keys
from jobs.foundation.secret_box import SecretBox
from jobs.foundation.settings import Settings
from jobs.foundation.webhook_secrets import new_secret, rotate, secrets_of


class Tenants:
    """The tenants in Redis.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
        secret_box: encrypts secrets at rest.
    """

    def __init__(self, redis: Redis, keys: Keys, secret_box: SecretBox) -> None:
        self._redis = redis
        self._keys = keys
        self._secret_box = secret_box

    def ensure(self, tenant: str) -> None:
        """Register a tenant with a new webhook secret. A known tenant stays as it is.

        Raises:
            InvalidInput: the name is invalid as a part of keys.
        """
        if not re.match(TENANT_LABEL, tenant):
            raise InvalidInput.of(
                "tenant", "lower-case letters, digits, '-' and '_', at most 63, a letter or digit first"
            )
        key = self._keys.tenant(tenant)
        pipe = self._redis.pipeline()
        pipe.hsetnx(key, "name", tenant)
        pipe.hsetnx(key, "secret", self._secret_box.encrypt(new_secret()))
        pipe.hsetnx(key, "stalled", self._keys.stalled(tenant))
        pipe.sadd(self._keys.tenants, tenant)
        pipe.execute()

    def names(self) -> list[str]:
        """All tenants, by name."""
        return sorted(str(name) for name in self._redis.smembers(self._keys.tenants))

    def webhook_secret(self, tenant: str) -> str:
        """The tenant's newest secret for Standard Webhooks: `whsec_` and base 64."""
        return self.webhook_secrets(tenant)[0]

    def webhook_secrets(self, tenant: str) -> list[str]:
        """The secrets that sign the events of the tenant's jobs and batches, the newest first."""
        self.ensure(tenant)
        record: Any = self._redis.hgetall(self._keys.tenant(tenant))
        return secrets_of(record, self._secret_box, time.time() * 1000)

    def rotate_webhook_secret(self, tenant: str) -> str:
        """Create and return a new secret; the previous one signs, too, for a day.

        Raises:
            Conflict: too many secrets sign already.
        """
        self.ensure(tenant)
        return rotate(self._redis, self._keys.tenant(tenant), self._secret_box, time.time() * 1000)


def make_tenants(redis: Redis, settings: Settings) -> Tenants:
    """The tenants in a store. Their secrets are encrypted at rest if the settings have a key.

    Raises:
        ConfigurationError: RETOUCH_SECRET_KEY is too short.
    """
    return Tenants(redis, Keys(settings.key_prefix), SecretBox(settings.secret_key))
