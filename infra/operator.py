"""What an operator does beside Redis, without the API."""

import redis

from jobs.errors import Unavailable
from jobs.keys import Keys
from jobs.settings import load_settings
from jobs.tenants import Tenants


def create_key(tenant: str, *, name: str = "", admin: bool = False) -> str:
    """Make an API key of a tenant; returns it, and only its hash is kept.

    Raises:
        jobs.errors.ConfigurationError: the settings cannot be used.
        jobs.errors.InvalidInput: the tenant's name cannot be one.
        jobs.errors.Unavailable: Redis does not answer.
    """
    settings = load_settings()
    url = settings.redis_url.get_secret_value()
    try:
        with redis.Redis.from_url(
            url, decode_responses=True, socket_connect_timeout=5, socket_timeout=10
        ) as connection:
            return Tenants(connection, Keys(settings.key_prefix)).create_key(tenant, name=name, admin=admin)
    except redis.RedisError as error:
        raise Unavailable(f"Redis: {error}") from error
