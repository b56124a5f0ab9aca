"""Health check of a container: `python -m infra.local.health [URL]`. The default URL is in `HEALTH_URL`.

Exit status: 0 if the process answers with 2xx, 1 if it does not, 2 if there is no URL. The check runs every few
seconds, so it imports only the standard library.
"""

import os
import sys
from http.client import HTTPException
from urllib.request import ProxyHandler, build_opener

TIMEOUT_S = 5
"""Timeout of the request. The timeout of the container's health check must be longer."""


def fault(url: str, timeout_s: float = TIMEOUT_S) -> str | None:
    """Return why the process is not healthy, in one line; None if it answers `url` with 2xx.

    Args:
        url: `http://…`, on loopback.
        timeout_s: maximum seconds without a byte.
    """
    # Requests to loopback must not use a proxy from the environment.
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_s):
            return None
    except (OSError, HTTPException, ValueError) as error:  # urllib raises an OSError for other statuses, too
        return f"{url}: {error}"


def main(arguments: list[str]) -> int:
    """Check once; returns the exit status."""
    url = arguments[0] if arguments else os.environ.get("HEALTH_URL", "")
    if not url.startswith("http://"):
        sys.stderr.write("no URL to check: pass one that begins with http://, or set HEALTH_URL\n")
        return 2
    reason = fault(url)
    if reason:
        sys.stderr.write(f"{reason}\n")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
