"""Chooses loopback ports for servers that cannot use port 0, and reuses them on the next start."""

import json
import random
import socket
from pathlib import Path

from infra.local.program import StackError, write_private

TWIN = 10_000
"""SeaweedFS adds this to an HTTP port to get the number of its gRPC port."""
# Below every system's default range of ephemeral ports (32768 on Linux, 49152 elsewhere), twins included. So no
# outgoing connection can take one of these ports while the stack is stopped.
_LOWEST, _HIGHEST = 12_000, 32_767 - TWIN
_TRIES = 200


def is_free(port: int) -> bool:
    """True if a server could listen on this port now, on loopback and on all addresses."""
    for host in ("127.0.0.1", "0.0.0.0"):  # noqa: S104 - bound for a moment, never listening
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # Servers set it too, so connections in TIME_WAIT do not block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


class Ports:
    """Chooses a port for each name. It prefers the port of the last run.

    Args:
        path: JSON file that stores the choice; None stores nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._chosen: dict[str, int] = {}
        self._stored: dict[str, int] = {}
        if path is not None and path.exists():
            try:
                self._stored = {str(name): int(port) for name, port in json.loads(path.read_text()).items()}
            except (ValueError, AttributeError):
                self._stored = {}  # without this file, new ports are chosen

    def choose(self, name: str, requested: int = 0, *, flag: str = "", twin: bool = False) -> int:
        """Choose a port for `name`: the requested one, else the stored one if it is free, else any free one.

        Args:
            name: the server that uses the port.
            requested: 0 for any.
            flag: the command-line option for this port, for the error message.
            twin: if true, the port 10,000 above must be free too.

        Raises:
            StackError: the requested port is in use, or no port is free.
        """
        if requested:
            if requested in self._chosen.values() or not is_free(requested):
                raise StackError(f"port {requested} is in use: choose another with {flag}")
            self._chosen[name] = requested
            return requested
        candidates = [self._stored[name]] if name in self._stored else []
        candidates += [random.randint(_LOWEST, _HIGHEST) for _ in range(_TRIES)]  # noqa: S311 - no secret
        for port in candidates:
            needed = {port, port + TWIN} if twin else {port}
            if not needed & set(self._chosen.values()) and all(map(is_free, needed)):
                self._chosen[name] = port
                if twin:
                    self._chosen[f"{name}-twin"] = port + TWIN
                return port
        raise StackError(f"no free port on 127.0.0.1 for {name} between {_LOWEST} and {_HIGHEST}")

    def save(self) -> None:
        """Store the chosen ports for the next run."""
        if self._path is not None:
            write_private(self._path, json.dumps(self._stored | self._chosen, indent=2) + "\n")
