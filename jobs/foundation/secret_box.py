"""Encryption of stored secrets with the operator's key, by the library `cryptography`."""

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr

from jobs.foundation.errors import ConfigurationError

ENCRYPTED_PREFIX = "sealed:"
"""The beginning of an encrypted text."""
MIN_KEY_LENGTH = 16


class SecretBox:
    """Encrypts and decrypts texts.

    Without a key, texts are stored in plain text. Several keys, separated by commas, allow to replace a key: the first
    key encrypts, all keys decrypt. Plain texts from the time before there was a key can still be read.

    Args:
        key: `RETOUCH_SECRET_KEY`: one or more random texts of at least 16 characters (`openssl rand -base64 32`).

    Raises:
        ConfigurationError: a key is too short.
    """

    def __init__(self, key: SecretStr | None) -> None:
        parts = [part.strip() for part in key.get_secret_value().split(",")] if key else []
        parts = [part for part in parts if part]
        if any(len(part) < MIN_KEY_LENGTH for part in parts):
            raise ConfigurationError(f"RETOUCH_SECRET_KEY: each key needs at least {MIN_KEY_LENGTH} random characters")
        self._keys = MultiFernet([Fernet(_derive(part)) for part in parts]) if parts else None

    def encrypt(self, text: str) -> str:
        """The form of a text that is stored."""
        return ENCRYPTED_PREFIX + self._keys.encrypt(text.encode()).decode() if self._keys else text

    def decrypt(self, stored: str) -> str:
        """The text of a stored form.

        Raises:
            ConfigurationError: the key that encrypted it is not among the keys.
        """
        if not stored.startswith(ENCRYPTED_PREFIX):
            return stored
        if self._keys is None:
            raise ConfigurationError("a webhook secret is encrypted and RETOUCH_SECRET_KEY is not set")
        try:
            return self._keys.decrypt(stored.removeprefix(ENCRYPTED_PREFIX)).decode()
        except InvalidToken:
            raise ConfigurationError(
                "a webhook secret was encrypted with a key that RETOUCH_SECRET_KEY no longer contains"
            ) from None


def _derive(key: str) -> bytes:
    # The operator's key must be random, so one round of a hash suffices to give it Fernet's form.
    return base64.urlsafe_b64encode(hashlib.sha256(b"retouch webhook secrets\0" + key.encode()).digest())
