"""Loopback ports for servers that cannot be given port 0, and the memory of which were chosen."""

import json
import random
import socket
from pathlib import Path

from infra.local.program import StackError, write_private

TWIN = 10_000
"""What SeaweedFS adds to an HTTP port for the gRPC port beside it."""
# Below every system's default range of ephemeral ports (32768 on Linux, 49152 elsewhere), twins included: no outgoing
# connection can take one while the stack is down.
_LOWEST, _HIGHEST = 12_000, 32_767 - TWIN
_TRIES = 200


def is_free(port: int) -> bool:
    """Whether a server could listen on this port now, on loopback and on every address."""
    for host in ("127.0.0.1", "0.0.0.0"):  # noqa: S104 - bound for a moment, never listening
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As servers do: connections that linger in TIME_WAIT are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


class Ports:
    """Chooses a port for each name, and the same again where it is still free.

    Args:
        path: JSON file that remembers the choice; None remembers nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._chosen: dict[str, int] = {}
        self._remembered: dict[str, int] = {}
        if path is not None and path.exists():
            try:
                self._remembered = {str(name): int(port) for name, port in json.loads(path.read_text()).items()}
            except (ValueError, AttributeError):
                self._remembered = {}  # losing this file costs nothing but the old numbers

    def choose(self, name: str, requested: int = 0, *, flag: str = "", twin: bool = False) -> int:
        """A port for `name`: the requested one, else the remembered one if free, else any free one.

        Args:
            name: whose port it is; several stacks in one file need different names.
            requested: 0 for any.
            flag: the option that names the requested port, for the message.
            twin: the port 10,000 above must be free too.

        Raises:
            StackError: the requested port is taken, or none is free.
        """
        if requested:
            if requested in self._chosen.values() or not is_free(requested):
                raise StackError(f"port {requested} is taken: choose another with {flag}")
            self._chosen[name] = requested
            return requested
        candidates = [self._remembered[name]] if name in self._remembered else []
        candidates += [random.randint(_LOWEST, _HIGHEST) for _ in range(_TRIES)]  # noqa: S311 - no secret
        for port in candidates:
            wanted = {port, port + TWIN} if twin else {port}
            if not wanted & set(self._chosen.values()) and all(is_free(each) for each in wanted):
                self._chosen[name] = port
                if twin:
                    self._chosen[f"{name}-twin"] = port + TWIN
                return port
        raise StackError(f"no free port on 127.0.0.1 for {name} between {_LOWEST} and {_HIGHEST}")

    def save(self) -> None:
        """Remember the ports chosen."""
        if self._path is not None:
            write_private(self._path, json.dumps(self._remembered | self._chosen, indent=2) + "\n")
