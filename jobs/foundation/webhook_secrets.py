"""The secrets that sign webhooks: made, kept sealed, replaced with a day of both."""

import json
import secrets
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from redis.client import Pipeline
from standardwebhooks import Webhook

from jobs.foundation.errors import Conflict
from jobs.foundation.secret_box import SecretBox

PREFIX = "whsec_"
"""What a secret begins with; base 64 of its bytes follows (https://www.standardwebhooks.com)."""
SECRET_BYTES = 32
BOTH_SIGN_S = 86_400
"""How long a secret that was replaced signs beside the new one, in seconds."""
MOST_SIGN = 10
"""Secrets that sign at once: each makes the header longer, and receivers take a few kilobytes of headers."""


def new_secret() -> str:
    """A random secret."""
    return PREFIX + b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def secrets_of(record: Mapping[str, str], secret_box: SecretBox, now_ms: float) -> list[str]:
    """The secrets that sign at a moment, the newest first.

    Args:
        record: with `secret`, and after a rotation with those that still sign, see `_replaced`.
        secret_box: opens them.
        now_ms: the moment, in ms since 1970.

    Raises:
        ConfigurationError: one cannot be opened.
    """
    return [secret_box.decrypt(stored) for stored in (record["secret"], *(old for old, _ in _replaced(record, now_ms)))]


def rotate(redis: Redis, key: str, secret_box: SecretBox, now_ms: float) -> str:
    """Give the record at `key` a new secret and return it; each one it had signs for a day after it was replaced.

    Whoever lost an answer rotates again, and the receiver still has the secret of before the first rotation.

    Raises:
        Conflict: so many secrets sign already that receivers could refuse the header.
    """
    fresh = new_secret()

    def change(pipe: Pipeline) -> None:
        record: Any = pipe.hgetall(key)
        old = _replaced(record, now_ms)
        if "secret" in record:
            old = [(record["secret"], int(now_ms) + BOTH_SIGN_S * 1000), *old]
        if len(old) >= MOST_SIGN:
            raise Conflict(f"{MOST_SIGN} secrets sign already: rotate when the oldest is a day old")
        pipe.multi()
        pipe.hset(key, mapping={"secret": secret_box.encrypt(fresh), "old_secrets": json.dumps(old)})
        pipe.hdel(key, "old_secret", "old_until")

    redis.transaction(change, key)
    return fresh


def _replaced(record: Mapping[str, str], now_ms: float) -> list[tuple[str, int]]:
    """Secrets that were replaced and still sign, as they are stored, and until when, in ms; the newest first.

    They lie in `old_secrets`. Records written before there was that field have one, in `old_secret` and `old_until`.
    """
    found = [(str(stored), int(until)) for stored, until in json.loads(record.get("old_secrets", "[]"))]
    if "old_secret" in record:
        found.append((record["old_secret"], int(float(record.get("old_until", 0)))))
    return [(stored, until) for stored, until in found if now_ms < until]


def signature(event_id: str, at: datetime, body: str, keys: list[str]) -> str:
    """The header `webhook-signature`: one for each secret."""
    return " ".join(Webhook(key).sign(event_id, at.astimezone(UTC), body) for key in keys)
