"""The client of Redis or Valkey that every process uses for records."""

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from jobs.foundation.settings import Settings


def connect(settings: Settings) -> Redis:
    """A client of the store; it connects at its first command.

    A command that finds a dropped connection is retried up to three times within about a second. A script may
    therefore run twice. That is harmless: each script is fenced by the state that it expects or by an id that it gets.
    """
    return Redis.from_url(
        settings.redis_url.get_secret_value(),
        decode_responses=True,
        socket_connect_timeout=5,
        socket_timeout=10,
        socket_keepalive=True,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 3),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
    )
