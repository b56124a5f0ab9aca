"""What an operator does beside Redis, without the API."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import redis

from jobs.foundation.errors import Unavailable
from jobs.foundation.redis_keys import Keys
from jobs.foundation.settings import load_settings
from jobs.tenants.tenants import Tenants


@contextmanager
def _tenants() -> Iterator[Tenants]:
    """The tenants of the store that the settings name.

    Raises:
        jobs.foundation.errors.ConfigurationError: the settings cannot be used.
        jobs.foundation.errors.Unavailable: Redis does not answer.
    """
    settings = load_settings()
    url = settings.redis_url.get_secret_value()
    try:
        with redis.Redis.from_url(
            url, decode_responses=True, socket_connect_timeout=5, socket_timeout=10
        ) as connection:
            yield Tenants(connection, Keys(settings.key_prefix))
    except redis.RedisError as error:
        raise Unavailable(f"Redis: {error}") from error


def create_key(tenant: str, *, name: str = "", admin: bool = False) -> str:
    """Make an API key of a tenant; returns it, and only its hash is kept.

    Raises:
        jobs.foundation.errors.InvalidInput: the tenant's name cannot be one.
        jobs.foundation.errors.ConfigurationError, jobs.foundation.errors.Unavailable: there is no store to keep it in.
    """
    with _tenants() as tenants:
        return tenants.create_key(tenant, name=name, admin=admin)


def list_keys(tenant: str) -> list[dict[str, Any]]:
    """A tenant's API keys: `id`, `name`, `admin`, `created_at`; the oldest first."""
    with _tenants() as tenants:
        return [asdict(key) for key in tenants.api_keys(tenant)]


def revoke_key(tenant: str, key_id: str) -> None:
    """End an API key.

    Raises:
        jobs.foundation.errors.NotFound: the tenant has no key of that id.
    """
    with _tenants() as tenants:
        tenants.revoke_key(tenant, key_id)
