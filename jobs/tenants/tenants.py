"""Tenants, their API keys (hashed at rest), their quotas and the secret that signs what is told to them."""

import hashlib
import re
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field
from redis import Redis

from jobs.foundation.errors import InvalidInput, NotFound, Unauthorized
from jobs.foundation.redis_keys import TENANT_LABEL, Keys
from jobs.foundation.secret_box import SecretBox
from jobs.foundation.webhook_secrets import new_secret, rotate, secrets_of
from jobs.records.job_models import Record

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


@dataclass(frozen=True)
class ApiKey:
    """What is known of an API key.

    Attributes:
        id: a name of the key that is not secret.
        name: what it is for.
        admin: whether it may act for the operator.
        created_at: RFC 3339.
    """

    id: str
    name: str
    admin: bool
    created_at: str


class Quotas(Record):
    """What a tenant may have; None is no limit.

    Attributes:
        max_queued: jobs queued and waiting at a time.
        max_daily: jobs submitted in a day, by UTC.
        max_in_flight: jobs that run at a time, over all models.
    """

    max_queued: Annotated[int, Field(ge=0)] | None = None
    max_daily: Annotated[int, Field(ge=0)] | None = None
    max_in_flight: Annotated[int, Field(ge=1)] | None = None


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
        pipe.hsetnx(key, "secret", self._secret_box.encrypt(new_secret()))
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
        digest = _digest(key)
        pipe = self._redis.pipeline()
        pipe.hset(self._keys.api_key(digest), mapping=record)
        pipe.sadd(self._keys.api_keys(tenant), digest)
        pipe.execute()
        return key

    def api_keys(self, tenant: str) -> list[ApiKey]:
        """A tenant's API keys, the oldest first."""
        digests = sorted(self._redis.smembers(self._keys.api_keys(tenant)))
        pipe = self._redis.pipeline(transaction=False)
        for digest in digests:
            pipe.hgetall(self._keys.api_key(str(digest)))
        found = [
            ApiKey(key_id_of(str(digest)), record["name"], record["admin"] == "1", record["created_at"])
            for digest, record in zip(digests, pipe.execute(), strict=True)
            if record
        ]
        return sorted(found, key=lambda one: one.created_at)

    def revoke_key(self, tenant: str, key_id: str) -> None:
        """An API key is refused from now on.

        Raises:
            NotFound: the tenant has no key of that id.
        """
        for digest in map(str, self._redis.smembers(self._keys.api_keys(tenant))):
            if key_id_of(digest) == key_id:
                pipe = self._redis.pipeline()
                pipe.delete(self._keys.api_key(digest))
                pipe.srem(self._keys.api_keys(tenant), digest)
                pipe.execute()
                return
        raise NotFound(f"tenant {tenant} has no API key {key_id}; `retouch keys list {tenant}` shows those it has")

    def authenticate(self, key: str) -> Caller:
        """Who this API key belongs to.

        Raises:
            Unauthorized: nobody.
        """
        digest = _digest(key)
        tenant, admin = self._redis.hmget(self._keys.api_key(digest), ["tenant", "admin"])
        if tenant is None:
            raise Unauthorized("this API key is not known; `retouch keys create TENANT` makes one")
        return Caller(tenant=str(tenant), admin=admin == "1", key_id=key_id_of(digest))

    def names(self) -> list[str]:
        """Every tenant, by name."""
        return sorted(str(name) for name in self._redis.smembers(self._keys.tenants))

    def quotas(self, tenant: str) -> Quotas:
        """What a tenant may have.

        Raises:
            NotFound: there is no such tenant.
        """
        if not self._redis.sismember(self._keys.tenants, tenant):
            raise NotFound(f"there is no tenant {tenant}")
        names = list(Quotas.model_fields)
        values = self._redis.hmget(self._keys.tenant(tenant), names)
        return Quotas(**{name: int(value) for name, value in zip(names, values, strict=True) if value is not None})

    def set_quotas(self, tenant: str, quotas: Quotas) -> None:
        """Replace what a tenant may have; it is made known where it is not. What runs or is queued stays."""
        self.ensure(tenant)
        given: dict[Any, Any] = {name: value for name, value in quotas.model_dump().items() if value is not None}
        gone = [name for name in Quotas.model_fields if name not in given]
        pipe = self._redis.pipeline()
        if given:
            pipe.hset(self._keys.tenant(tenant), mapping=given)
        if gone:
            pipe.hdel(self._keys.tenant(tenant), *gone)
        pipe.execute()

    def webhook_secret(self, tenant: str) -> str:
        """The tenant's secret for Standard Webhooks, `whsec_` and base 64."""
        return self.webhook_secrets(tenant)[0]

    def webhook_secrets(self, tenant: str) -> list[str]:
        """The secrets that sign what the tenant's jobs and batches tell, the newest first."""
        self.ensure(tenant)
        record: Any = self._redis.hgetall(self._keys.tenant(tenant))
        return secrets_of(record, self._secret_box, time.time() * 1000)

    def rotate_webhook_secret(self, tenant: str) -> str:
        """A new secret, returned; the one before it signs for another day.

        Raises:
            Conflict: too many are signing already.
        """
        self.ensure(tenant)
        return rotate(self._redis, self._keys.tenant(tenant), self._secret_box, time.time() * 1000)


def key_id_of(digest: str) -> str:
    """A name of an API key that tells nothing of it."""
    return digest[:12]


def _digest(key: str) -> str:
    # A key has 256 random bits, so one round of a fast hash protects it; a slow one would cost every request.
    return hashlib.sha256(key.encode()).hexdigest()
