"""Quotas of tenants. The scripts that submit and plan jobs apply them."""

from typing import Annotated, Any

from pydantic import Field
from redis import Redis

from jobs.foundation.errors import NotFound
from jobs.foundation.redis_keys import Keys
from jobs.records.job_models import Record
from jobs.tenants.tenants import Tenants


class Quotas(Record):
    """The limits of a tenant; None means no limit.

    Attributes:
        max_queued: jobs queued and waiting at a time.
        max_daily: jobs submitted in a day, by UTC.
        max_in_flight: jobs that run at a time, over all models.
    """

    max_queued: Annotated[int, Field(ge=0)] | None = None
    max_daily: Annotated[int, Field(ge=0)] | None = None
    max_in_flight: Annotated[int, Field(ge=1)] | None = None


class TenantQuotas:
    """Reads and writes quotas.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
        tenants: registers a tenant that gets quotas.
    """

    def __init__(self, redis: Redis, keys: Keys, tenants: Tenants) -> None:
        self._redis = redis
        self._keys = keys
        self._tenants = tenants

    def get(self, tenant: str) -> Quotas:
        """The quotas of a tenant.

        Raises:
            NotFound: there is no such tenant.
        """
        if not self._redis.sismember(self._keys.tenants, tenant):
            raise NotFound(f"there is no tenant {tenant}")
        names = list(Quotas.model_fields)
        values = self._redis.hmget(self._keys.tenant(tenant), names)
        return Quotas(**{name: int(value) for name, value in zip(names, values, strict=True) if value is not None})

    def set(self, tenant: str, quotas: Quotas) -> None:
        """Replace the quotas of a tenant. Running and queued jobs stay. A new tenant is registered.

        Raises:
            InvalidInput: the tenant's name is invalid.
        """
        self._tenants.ensure(tenant)
        limits: dict[Any, Any] = {name: value for name, value in quotas.model_dump().items() if value is not None}
        unlimited = [name for name in Quotas.model_fields if name not in limits]
        pipe = self._redis.pipeline()
        if limits:
            pipe.hset(self._keys.tenant(tenant), mapping=limits)
        if unlimited:
            pipe.hdel(self._keys.tenant(tenant), *unlimited)
        pipe.execute()
