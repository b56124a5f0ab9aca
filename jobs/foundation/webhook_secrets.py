"""The secrets that sign webhooks: creation, encrypted storage, rotation with a day of overlap."""

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
"""The beginning of a secret; the base 64 of its bytes follows (https://www.standardwebhooks.com)."""
SECRET_BYTES = 32
OVERLAP_S = 86_400
"""How long a replaced secret still signs together with the new one, in seconds."""
MAX_SECRETS = 10
"""Maximum of secrets that sign at once: each makes the header longer, and receivers limit the size of headers."""


def new_secret() -> str:
    """A new random secret."""
    return PREFIX + b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def secrets_of(record: Mapping[str, str], secret_box: SecretBox, now_ms: float) -> list[str]:
    """The secrets that sign at a given time, the newest first.

    Args:
        record: has `secret`, and after a rotation the replaced secrets, see `_replaced`.
        secret_box: decrypts them.
        now_ms: the time, in ms since 1970.

    Raises:
        ConfigurationError: a secret cannot be decrypted.
    """
    return [secret_box.decrypt(stored) for stored in (record["secret"], *(old for old, _ in _replaced(record, now_ms)))]


def rotate(redis: Redis, key: str, secret_box: SecretBox, now_ms: float) -> str:
    """Give the record at `key` a new secret and return it. A replaced secret signs for another day.

    A caller that lost the answer can rotate again: the secret from before the first rotation still signs.

    Raises:
        Conflict: the maximum of secrets sign already; receivers could refuse a longer header.
    """
    secret = new_secret()

    def change(pipe: Pipeline) -> None:
        record: Any = pipe.hgetall(key)
        old = _replaced(record, now_ms)
        if "secret" in record:
            old = [(record["secret"], int(now_ms) + OVERLAP_S * 1000), *old]
        if len(old) >= MAX_SECRETS:
            raise Conflict(f"{MAX_SECRETS} secrets sign already: rotate when the oldest is a day old")
        pipe.multi()
        pipe.hset(key, mapping={"secret": secret_box.encrypt(secret), "old_secrets": json.dumps(old)})
        pipe.hdel(key, "old_secret", "old_until")

    redis.transaction(change, key)
    return secret


def _replaced(record: Mapping[str, str], now_ms: float) -> list[tuple[str, int]]:
    """Replaced secrets that still sign, in stored form, each with its end in ms; the newest first.

    They are in the field `old_secrets`. Older records have one replaced secret, in `old_secret` and `old_until`.
    """
    replaced = [(str(stored), int(until)) for stored, until in json.loads(record.get("old_secrets", "[]"))]
    if "old_secret" in record:
        replaced.append((record["old_secret"], int(float(record.get("old_until", 0)))))
    return [(stored, until) for stored, until in replaced if now_ms < until]


def signature(event_id: str, at: datetime, body: str, keys: list[str]) -> str:
    """The header `webhook-signature`: one signature for each secret."""
    return " ".join(Webhook(key).sign(event_id, at.astimezone(UTC), body) for key in keys)
