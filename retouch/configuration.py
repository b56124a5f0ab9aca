"""Where the service is and with which key: from the caller, the environment, or a stack that runs beside us."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from retouch.errors import NotConfigured

LOCAL_ENV = Path(".retouch", "local.env")
"""What `retouch up` writes once all its parts answer."""


@dataclass(frozen=True)
class Access:
    """A service and the key to it.

    Attributes:
        url: absolute, without a slash at its end.
        source: where the URL came from, for people.
    """

    url: str
    api_key: str = field(repr=False)
    source: str


def find_local_env(start: Path | None = None) -> Path | None:
    """The nearest `.retouch/local.env` of `start` (the current directory) and its parents.

    One that belongs to another user is passed over: whoever may write above us must not choose where our key goes.
    """
    here = (start or Path.cwd()).absolute()
    for folder in (here, *here.parents):
        path = folder / LOCAL_ENV
        try:
            owner = path.stat().st_uid
        except OSError:
            continue
        if owner in {os.geteuid(), 0}:
            return path
    return None


def read_env_file(path: Path) -> dict[str, str]:
    """Read lines of `NAME=value`; `export`, comments, blank lines and quotes around a value are allowed."""
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
    """The settings of the stack that runs beside us; empty where there is none."""
    path = find_local_env(start)
    return read_env_file(path) if path else {}


def find_access(
    url: str | None = None, api_key: str | None = None, environment: Mapping[str, str] | None = None
) -> Access:
    """Decide which service to use. What the caller gives wins over the environment, that over `local.env`.

    The key in `local.env` is used for the service named there alone, never for another one.

    Raises:
        NotConfigured: saying what is missing and how to set it.
    """
    environment = os.environ if environment is None else environment
    chosen = url or environment.get("RETOUCH_URL") or ""
    key = api_key or environment.get("RETOUCH_API_KEY") or ""
    source = "the caller" if url else "RETOUCH_URL"
    if not chosen or not key:
        path = find_local_env()
        local = read_env_file(path) if path else {}
        if not chosen:
            chosen, source = local.get("RETOUCH_URL", ""), str(path)
        if not key and chosen.rstrip("/") == local.get("RETOUCH_URL", "").rstrip("/"):
            key = local.get("RETOUCH_API_KEY", "")
    if not chosen:
        raise NotConfigured(
            "no service is named: set RETOUCH_URL and RETOUCH_API_KEY, "
            f"or run beside a {LOCAL_ENV} (`retouch up` writes one)"
        )
    parts = urlsplit(chosen)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise NotConfigured(f"{source}: {chosen!r} is no http:// or https:// address")
    if not key:
        raise NotConfigured(f"no API key for {chosen}: set RETOUCH_API_KEY (`retouch keys create TENANT` makes one)")
    return Access(chosen.rstrip("/"), key, source)
