"""API keys of tenants. The store holds only their hashes."""

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis import Redis

from jobs.foundation.errors import NotFound, Unauthorized
from jobs.foundation.redis_client import connect
from jobs.foundation.redis_keys import Keys
from jobs.foundation.settings import Settings
from jobs.tenants.tenants import Tenants, make_tenants

KEY_PREFIX = "rtk_"


@dataclass(frozen=True)
class Caller:
    """The sender of a request.

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
    """The description of an API key.

    Attributes:
        id: a name of the key that is not secret.
        name: its purpose, in the words of its maker.
        admin: whether it may act for the operator.
        created_at: RFC 3339.
    """

    id: str
    name: str
    admin: bool
    created_at: str


class ApiKeys:
    """The API keys of all tenants.

    Args:
        redis: a client that decodes answers.
        keys: names of the store's keys.
        tenants: registers the tenant of a new API key.
    """

    def __init__(self, redis: Redis, keys: Keys, tenants: Tenants) -> None:
        self._redis = redis
        self._keys = keys
        self._tenants = tenants

    def create(self, tenant: str, *, name: str = "", admin: bool = False) -> str:
        """Create an API key and return it. It cannot be read again. A new tenant is registered.

        Raises:
            InvalidInput: the tenant's name is invalid.
        """
        self._tenants.ensure(tenant)
        api_key = KEY_PREFIX + secrets.token_urlsafe(32)
        record: dict[Any, Any] = {
            "tenant": tenant,
            "name": name,
            "admin": "1" if admin else "0",
            "created_at": datetime.now(UTC).isoformat(),
        }
        digest = _digest(api_key)
        pipe = self._redis.pipeline()
        pipe.hset(self._keys.api_key(digest), mapping=record)
        pipe.sadd(self._keys.api_keys(tenant), digest)
        pipe.execute()
        return api_key

    def list(self, tenant: str) -> list[ApiKey]:
        """A tenant's API keys, the oldest first."""
        digests = sorted(map(str, self._redis.smembers(self._keys.api_keys(tenant))))
        pipe = self._redis.pipeline(transaction=False)
        for digest in digests:
            pipe.hgetall(self._keys.api_key(digest))
        api_keys = [
            ApiKey(key_id_of(digest), record["name"], record["admin"] == "1", record["created_at"])
            for digest, record in zip(digests, pipe.execute(), strict=True)
            if record
        ]
        return sorted(api_keys, key=lambda api_key: api_key.created_at)

    def revoke(self, tenant: str, key_id: str) -> None:
        """Delete an API key; the next request with it is refused.

        Raises:
            NotFound: the tenant has no key with this id.
        """
        for digest in map(str, self._redis.smembers(self._keys.api_keys(tenant))):
            if key_id_of(digest) == key_id:
                pipe = self._redis.pipeline()
                pipe.delete(self._keys.api_key(digest))
                pipe.srem(self._keys.api_keys(tenant), digest)
                pipe.execute()
                return
        raise NotFound(f"tenant {tenant} has no API key {key_id}; `retouch keys list {tenant}` lists its keys")

    def authenticate(self, api_key: str) -> Caller:
        """The owner of an API key.

        Raises:
            Unauthorized: the key does not exist.
        """
        digest = _digest(api_key)
        tenant, admin = self._redis.hmget(self._keys.api_key(digest), ["tenant", "admin"])
        if tenant is None:
            raise Unauthorized("this API key is not known; `retouch keys create TENANT` makes one")
        return Caller(tenant=str(tenant), admin=admin == "1", key_id=key_id_of(digest))


@contextmanager
def open_api_keys(settings: Settings) -> Iterator[ApiKeys]:
    """The API keys alone, for commands that use no other part. The connection is closed at the end.

    Raises:
        ConfigurationError: RETOUCH_SECRET_KEY is too short.
    """
    with closing(connect(settings)) as redis:
        yield make_api_keys(redis, settings)


def make_api_keys(redis: Redis, settings: Settings) -> ApiKeys:
    """The API keys in a store.

    Raises:
        ConfigurationError: RETOUCH_SECRET_KEY is too short.
    """
    return ApiKeys(redis, Keys(settings.key_prefix), make_tenants(redis, settings))


def key_id_of(digest: str) -> str:
    """A name of an API key that does not reveal the key."""
    return digest[:12]


def _digest(api_key: str) -> str:
    # A key has 256 random bits, so one round of a fast hash protects it. A slow hash would slow down every request.
    return hashlib.sha256(api_key.encode()).hexdigest()
