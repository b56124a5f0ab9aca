import re

import pytest

from jobs.foundation.errors import ConfigurationError
from jobs.foundation.settings import Settings, load_settings
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "configuration.md"


def test_the_page_lists_exactly_the_settings() -> None:
    named = set(re.findall(r"^\| `RETOUCH_(\w+)`", PAGE.read_text(), re.MULTILINE))
    assert named == {name.upper() for name in Settings.model_fields}


def test_the_error_names_each_invalid_setting_and_the_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_RETENTION_DAYS", "-1")
    monkeypatch.setenv("RETOUCH_ALLOW_PRIVATE_ADDRESSES", "10.0.0.0/99")
    with pytest.raises(ConfigurationError, match=r"RETOUCH_RETENTION_DAYS.*greater than 0") as caught:
        load_settings()
    assert "RETOUCH_ALLOW_PRIVATE_ADDRESSES" in str(caught.value)


def test_secrets_are_masked_in_repr_and_in_dumps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_REDIS_URL", "redis://:hunter2@127.0.0.1/0")
    monkeypatch.setenv("RETOUCH_SECRET_KEY", "hunter3")
    settings = load_settings()
    assert "hunter" not in repr(settings) + str(settings.model_dump())
    assert settings.broker == "redis://:hunter2@127.0.0.1/0"
