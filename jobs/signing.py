"""The secrets that sign webhooks: made, kept sealed, replaced with a day of both."""

import secrets
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from redis.client import Pipeline
from standardwebhooks import Webhook

from jobs.sealing import Seal

PREFIX = "whsec_"
"""What a secret begins with; base 64 of its bytes follows (https://www.standardwebhooks.com)."""
SECRET_BYTES = 32
BOTH_SIGN_S = 86_400
"""How long the old secret signs beside the new one, in seconds."""


def new_secret() -> str:
    """A random secret."""
    return PREFIX + b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def secrets_of(record: Mapping[str, str], seal: Seal, now_ms: float) -> list[str]:
    """The secrets that sign at a moment, the newest first.

    Args:
        record: with `secret`, and `old_secret` and `old_until` after a rotation.
        seal: opens them.
        now_ms: the moment, in ms since 1970.

    Raises:
        ConfigurationError: one cannot be opened.
    """
    found = [seal.open(record["secret"])]
    if "old_secret" in record and now_ms < float(record.get("old_until", 0)):
        found.append(seal.open(record["old_secret"]))
    return found


def rotate(redis: Redis, key: str, seal: Seal, now_ms: float) -> str:
    """Give the record at `key` a new secret and return it; the one it had signs for another day."""
    fresh = new_secret()

    def change(pipe: Pipeline) -> None:
        old: Any = pipe.hget(key, "secret")
        pipe.multi()
        if old:
            pipe.hset(key, mapping={"old_secret": old, "old_until": int(now_ms) + BOTH_SIGN_S * 1000})
        pipe.hset(key, "secret", seal.seal(fresh))

    redis.transaction(change, key)
    return fresh


def signature(event_id: str, at: datetime, body: str, keys: list[str]) -> str:
    """The header `webhook-signature`: one for each secret."""
    return " ".join(Webhook(key).sign(event_id, at.astimezone(UTC), body) for key in keys)
