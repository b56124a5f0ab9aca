"""What an operator does beside Redis, without the API."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from redis.exceptions import RedisError

from jobs.foundation.errors import Unavailable
from jobs.foundation.settings import load_settings
from jobs.tenants.api_keys import ApiKeys, open_api_keys


@contextmanager
def _api_keys() -> Iterator[ApiKeys]:
    """The API keys in the store that the settings name.

    Raises:
        jobs.foundation.errors.ConfigurationError: the settings cannot be used.
        jobs.foundation.errors.Unavailable: Redis does not answer.
    """
    try:
        with open_api_keys(load_settings()) as api_keys:
            yield api_keys
    except RedisError as error:
        raise Unavailable(f"Redis: {error}") from error


def create_key(tenant: str, *, name: str = "", admin: bool = False) -> str:
    """Make an API key of a tenant; returns it, and only its hash is kept.

    Raises:
        jobs.foundation.errors.InvalidInput: the tenant's name cannot be one.
        jobs.foundation.errors.ConfigurationError, jobs.foundation.errors.Unavailable: there is no store to keep it in.
    """
    with _api_keys() as api_keys:
        return api_keys.create(tenant, name=name, admin=admin)


def list_keys(tenant: str) -> list[dict[str, Any]]:
    """A tenant's API keys: `id`, `name`, `admin`, `created_at`; the oldest first."""
    with _api_keys() as api_keys:
        return [asdict(key) for key in api_keys.list(tenant)]


def revoke_key(tenant: str, key_id: str) -> None:
    """End an API key.

    Raises:
        jobs.foundation.errors.NotFound: the tenant has no key of that id.
    """
    with _api_keys() as api_keys:
        api_keys.revoke(tenant, key_id)
