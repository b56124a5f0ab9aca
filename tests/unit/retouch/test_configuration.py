"""How the client finds the service's URL and API key."""

import os
from pathlib import Path

import pytest

from retouch.configuration import find_access, find_local_env, read_env_file
from retouch.errors import NotConfigured

LOCAL = "# comment\nRETOUCH_URL=http://127.0.0.1:8000\nexport RETOUCH_API_KEY='rtk_local'\n\nFLOWER_BASIC_AUTH=a:b=c\n"


@pytest.fixture
def local_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a `local.env`; the current directory is two levels below it."""
    (tmp_path / ".retouch").mkdir()
    path = tmp_path / ".retouch" / "local.env"
    path.write_text(LOCAL)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    return path


def test_a_local_env_in_a_parent_is_found(local_env: Path) -> None:
    assert find_local_env() == local_env
    access = find_access(environment={})
    assert (access.url, access.api_key) == ("http://127.0.0.1:8000", "rtk_local")


def test_the_nearest_local_env_wins(local_env: Path) -> None:
    nearest = Path.cwd() / ".retouch"
    nearest.mkdir()
    (nearest / "local.env").write_text("RETOUCH_URL=http://127.0.0.1:9\nRETOUCH_API_KEY=n\n")
    assert find_access(environment={}).url == "http://127.0.0.1:9"


def test_an_env_file_may_have_comments_exports_and_quotes(local_env: Path) -> None:
    assert read_env_file(local_env) == {
        "RETOUCH_URL": "http://127.0.0.1:8000",
        "RETOUCH_API_KEY": "rtk_local",
        "FLOWER_BASIC_AUTH": "a:b=c",
    }


def test_the_environment_wins_over_the_file_and_the_caller_over_both(local_env: Path) -> None:
    environment = {"RETOUCH_URL": "https://retouch.example/", "RETOUCH_API_KEY": "env"}
    access = find_access(environment=environment)
    assert (access.url, access.api_key) == ("https://retouch.example", "env")
    access = find_access("http://10.0.0.1:1", "mine", environment)
    assert (access.url, access.api_key) == ("http://10.0.0.1:1", "mine")


def test_the_local_key_never_goes_to_another_service(local_env: Path) -> None:
    with pytest.raises(NotConfigured, match="no API key for https://elsewhere"):
        find_access(environment={"RETOUCH_URL": "https://elsewhere.example"})
    assert find_access("http://127.0.0.1:8000/", environment={}).api_key == "rtk_local"


def test_a_file_of_another_user_is_ignored(local_env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(local_env, 65534, 65534)
    else:
        monkeypatch.setattr("os.geteuid", lambda: local_env.stat().st_uid + 1)
    assert find_local_env() is None


def test_a_missing_configuration_raises_an_error_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotConfigured, match="RETOUCH_URL and RETOUCH_API_KEY"):
        find_access(environment={})


def test_an_invalid_url_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotConfigured, match="not an http"):
        find_access("localhost:8000", "k", {})


def test_the_key_is_masked_in_repr() -> None:
    assert "secret" not in repr(find_access("http://a", "secret", {}))
