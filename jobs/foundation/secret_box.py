"""Secrets at rest: authenticated encryption with the operator's key, by the library `cryptography`."""

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr

from jobs.foundation.errors import ConfigurationError

SEALED = "sealed:"
"""What a sealed text begins with."""
SHORTEST_KEY = 16


class SecretBox:
    """Seals texts, and opens them again.

    Without a key texts stay as they are. Several keys, separated by commas, let one be replaced: the first one seals,
    each of them opens. What was written before there was a key can still be read.

    Args:
        key: `RETOUCH_SECRET_KEY`: one or more random texts of at least 16 characters (`openssl rand -base64 32`).

    Raises:
        ConfigurationError: a key is too short.
    """

    def __init__(self, key: SecretStr | None) -> None:
        parts = [part.strip() for part in key.get_secret_value().split(",")] if key else []
        parts = [part for part in parts if part]
        if any(len(part) < SHORTEST_KEY for part in parts):
            raise ConfigurationError(f"RETOUCH_SECRET_KEY: each key needs at least {SHORTEST_KEY} random characters")
        self._keys = MultiFernet([Fernet(_derive(part)) for part in parts]) if parts else None

    def encrypt(self, text: str) -> str:
        """The text as it is stored."""
        return SEALED + self._keys.encrypt(text.encode()).decode() if self._keys else text

    def decrypt(self, stored: str) -> str:
        """The text that was sealed.

        Raises:
            ConfigurationError: it was sealed with a key that is not here any more.
        """
        if not stored.startswith(SEALED):
            return stored
        if self._keys is None:
            raise ConfigurationError("a webhook secret is encrypted and RETOUCH_SECRET_KEY is not set")
        try:
            return self._keys.decrypt(stored.removeprefix(SEALED)).decode()
        except InvalidToken:
            raise ConfigurationError(
                "a webhook secret was encrypted with a key that RETOUCH_SECRET_KEY does not name any more"
            ) from None


def _derive(key: str) -> bytes:
    # The key is random by what is asked of it, so one round of a hash brings it into Fernet's form.
    return base64.urlsafe_b64encode(hashlib.sha256(b"retouch webhook secrets\0" + key.encode()).digest())
