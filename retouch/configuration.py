"""Find the service's URL and API key: from the caller, the environment, or the local stack's `local.env`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from retouch.errors import NotConfigured

LOCAL_ENV = Path(".retouch", "local.env")
"""`retouch up` writes this file once all its servers answer."""


@dataclass(frozen=True)
class Access:
    """A service and an API key for it.

    Attributes:
        url: absolute, without a trailing slash.
        source: where the URL came from, for error messages.
    """

    url: str
    api_key: str = field(repr=False)
    source: str


def find_local_env(start: Path | None = None) -> Path | None:
    """The nearest `.retouch/local.env` in `start` (default: the current directory) or its parents.

    A file of another user is ignored: a user who can write to a parent directory must not redirect our API key.
    """
    directory = (start or Path.cwd()).absolute()
    for folder in (directory, *directory.parents):
        path = folder / LOCAL_ENV
        try:
            owner = path.stat().st_uid
        except OSError:
            continue
        if owner in {os.geteuid(), 0}:
            return path
    return None


def read_env_file(path: Path) -> dict[str, str]:
    """Parse lines of `NAME=value`; `export`, comments, blank lines and quoted values are allowed."""
    values = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.startswith("#"):
            value = value.strip()
            if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
            values[name.strip()] = value
    return values


def local_environment(start: Path | None = None) -> dict[str, str]:
    """The settings of the local stack; empty if there is no `local.env`."""
    path = find_local_env(start)
    return read_env_file(path) if path else {}


def find_access(
    url: str | None = None, api_key: str | None = None, environment: Mapping[str, str] | None = None
) -> Access:
    """Choose the service. The caller's values win over the environment, and the environment over `local.env`.

    The key in `local.env` is sent only to the URL in `local.env`.

    Raises:
        NotConfigured: the URL or the key is missing or invalid; the message explains how to set it.
    """
    environment = os.environ if environment is None else environment
    service_url = url or environment.get("RETOUCH_URL") or ""
    key = api_key or environment.get("RETOUCH_API_KEY") or ""
    source = "the caller" if url else "RETOUCH_URL"
    if not service_url or not key:
        path = find_local_env()
        local = read_env_file(path) if path else {}
        if not service_url:
            service_url, source = local.get("RETOUCH_URL", ""), str(path)
        if not key and service_url.rstrip("/") == local.get("RETOUCH_URL", "").rstrip("/"):
            key = local.get("RETOUCH_API_KEY", "")
    if not service_url:
        raise NotConfigured(
            "no service is configured: set RETOUCH_URL and RETOUCH_API_KEY, "
            f"or run this in the directory of a local stack (`retouch up` writes {LOCAL_ENV})"
        )
    parts = urlsplit(service_url)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise NotConfigured(f"{source}: {service_url!r} is not an http:// or https:// URL")
    if not key:
        raise NotConfigured(
            f"no API key for {service_url}: set RETOUCH_API_KEY (`retouch keys create TENANT` creates one)"
        )
    return Access(service_url.rstrip("/"), key, source)
