"""Encryption of secrets at rest."""

import pytest
from pydantic import SecretStr

from jobs.foundation.errors import ConfigurationError
from jobs.foundation.secret_box import ENCRYPTED_PREFIX, SecretBox

KEY = "a random text of enough characters"


def test_the_first_key_encrypts_and_every_configured_key_decrypts() -> None:
    old, both = SecretBox(SecretStr(KEY)), SecretBox(SecretStr(f"another random text, {KEY}"))
    sealed = old.encrypt("whsec_x")
    assert sealed.startswith(ENCRYPTED_PREFIX)
    assert "whsec_x" not in sealed
    assert both.decrypt(sealed) == "whsec_x"
    with pytest.raises(ConfigurationError):
        old.decrypt(both.encrypt("whsec_x"))
    with pytest.raises(ConfigurationError):
        SecretBox(None).decrypt(sealed)
    assert both.decrypt("whsec_from_before") == "whsec_from_before"
    assert SecretBox(None).encrypt("whsec_x") == "whsec_x"


def test_a_changed_encrypted_text_is_refused() -> None:
    secret_box = SecretBox(SecretStr(KEY))
    sealed = secret_box.encrypt("whsec_x")
    with pytest.raises(ConfigurationError):
        secret_box.decrypt(sealed[:-6] + ("A" if sealed[-6] != "A" else "B") + sealed[-5:])


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        SecretBox(SecretStr("short"))
