"""Tenants, their API keys (hashed at rest), their quotas and the secret that signs what is told to them."""

import hashlib
import re
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis import Redis

from jobs.errors import InvalidInput, Unauthorized
from jobs.keys import TENANT_LABEL, Keys
from jobs.sealing import Seal
from jobs.signing import new_secret, rotate, secrets_of

KEY_PREFIX = "rtk_"


@dataclass(frozen=True)
class Caller:
    """Who a request comes from.

    Attributes:
        tenant: the owner of the key.
        admin: whether the key may act for the operator.
        key_id: a name of the key that is not secret.
    """

    tenant: str
    admin: bool
    key_id: str


class Tenants:
    """The tenants in Redis.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
        seal: for secrets at rest; without one they stay as they are.
    """

    def __init__(self, redis: Redis, keys: Keys, seal: Seal | None = None) -> None:
        self._redis = redis
        self._keys = keys
        self._seal = seal or Seal(None)

    def ensure(self, tenant: str) -> None:
        """Make the tenant known, with a secret of its own; nothing changes where it is known.

        Raises:
            InvalidInput: for a name that could not stand inside keys.
        """
        if not re.match(TENANT_LABEL, tenant):
            raise InvalidInput.of(
                "tenant", "lower-case letters, digits, '-' and '_', at most 63, a letter or digit first"
            )
        key = self._keys.tenant(tenant)
        pipe = self._redis.pipeline()
        pipe.hsetnx(key, "name", tenant)
        pipe.hsetnx(key, "secret", self._seal.seal(new_secret()))
        pipe.hsetnx(key, "stalled", self._keys.stalled(tenant))
        pipe.sadd(self._keys.tenants, tenant)
        pipe.execute()

    def create_key(self, tenant: str, *, name: str = "", admin: bool = False) -> str:
        """A new API key of a tenant, which is made known if it is not. The key is shown this once: its hash is kept."""
        self.ensure(tenant)
        key = KEY_PREFIX + secrets.token_urlsafe(32)
        record: dict[Any, Any] = {
            "tenant": tenant,
            "name": name,
            "admin": "1" if admin else "0",
            "created_at": datetime.now(UTC).isoformat(),
        }
        self._redis.hset(self._keys.api_key(_digest(key)), mapping=record)
        return key

    def authenticate(self, key: str) -> Caller:
        """Who this API key belongs to.

        Raises:
            Unauthorized: nobody.
        """
        digest = _digest(key)
        tenant, admin = self._redis.hmget(self._keys.api_key(digest), ["tenant", "admin"])
        if tenant is None:
            raise Unauthorized("this API key is not known; `retouch keys create TENANT` makes one")
        return Caller(tenant=str(tenant), admin=admin == "1", key_id=digest[:12])

    def webhook_secret(self, tenant: str) -> str:
        """The tenant's secret for Standard Webhooks, `whsec_` and base 64."""
        return self.webhook_secrets(tenant)[0]

    def webhook_secrets(self, tenant: str) -> list[str]:
        """The secrets that sign what the tenant's jobs and batches tell, the newest first."""
        self.ensure(tenant)
        record: Any = self._redis.hgetall(self._keys.tenant(tenant))
        return secrets_of(record, self._seal, time.time() * 1000)

    def rotate_webhook_secret(self, tenant: str) -> str:
        """A new secret, returned; the one before it signs for another day."""
        self.ensure(tenant)
        return rotate(self._redis, self._keys.tenant(tenant), self._seal, time.time() * 1000)


def _digest(key: str) -> str:
    # A key has 256 random bits, so one round of a fast hash protects it; a slow one would cost every request.
    return hashlib.sha256(key.encode()).hexdigest()
