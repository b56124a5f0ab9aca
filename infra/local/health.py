"""What a container's health check runs: `python -m infra.local.health [URL]`; the URL is `HEALTH_URL`'s unless given.

Exit status 0 where the process answers with 2xx, 1 where it does not, 2 for no URL. It imports nothing of Retouch, for
it starts every few seconds beside the process that it asks.
"""

import os
import sys
from http.client import HTTPException
from urllib.request import ProxyHandler, build_opener

TIMEOUT_S = 5
"""A process that answers later counts as ill; the container's own limit must be longer."""


def fault(url: str, timeout_s: float = TIMEOUT_S) -> str | None:
    """Why the process is not healthy, in one line; None where it answers `url` with 2xx.

    Args:
        url: `http://…`, on loopback.
        timeout_s: most seconds without a byte.
    """
    # A proxy of the environment has no business on loopback.
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_s):
            return None
    except (OSError, HTTPException, ValueError) as error:  # a status other than 2xx is an OSError too
        return f"{url}: {error}"


def main(arguments: list[str]) -> int:
    """Ask once; the exit status."""
    url = arguments[0] if arguments else os.environ.get("HEALTH_URL", "")
    if not url.startswith("http://"):
        sys.stderr.write("no URL to ask: give one that begins with http://, or set HEALTH_URL\n")
        return 2
    found = fault(url)
    if found:
        sys.stderr.write(f"{found}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
