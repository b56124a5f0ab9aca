"""The guard: connections go to addresses that were checked, and every wait on them ends with one deadline.

It acts where a connection is made: the name is resolved once, addresses that may not be reached are dropped, and the
connection goes to the very address that was checked, with the name kept for TLS and the Host header. So neither a name
that resolves to a private address, nor one that changes between two resolutions, nor a redirect gets past it.
"""

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import httpcore
import httpx

from jobs.foundation.address_policy import literal

Resolve = Callable[[str, int], Iterable[str]]
"""A name and a port to addresses, best first; raises OSError where there is none."""

_KEEPALIVE_S = 15
_BLOCK = 1 << 16


class AddressRefused(Exception):
    """A request would have gone to an address it may not reach."""


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system's resolver orders them.

    Raises:
        OSError: there is none.
    """
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Clock:
    """The deadline of the exchange that its thread is in."""

    def __init__(self) -> None:
        self.start(0, 0)

    def start(self, deadline_s: float, connect_timeout_s: float) -> None:
        """Begin an exchange that has so many seconds, and so many for each connection."""
        self._ends = time.monotonic() + deadline_s
        self.connect_timeout_s = connect_timeout_s

    def left(self, late: type[Exception]) -> float:
        """Seconds that are left.

        Raises:
            Exception: of the type `late`, where none are.
        """
        left = self._ends - time.monotonic()
        if left <= 0:
            raise late("the exchange was not done in time")
        return left

    def left_to_connect(self) -> float:
        """Seconds that are left for a connection.

        Raises:
            httpcore.ConnectTimeout: none are.
        """
        return min(self.left(httpcore.ConnectTimeout), self.connect_timeout_s)


class GuardedTransport(httpx.HTTPTransport):
    """httpx's transport over a pool with our own network: httpx has no argument for one, httpcore has."""

    def __init__(self, context: ssl.SSLContext, backend: httpcore.NetworkBackend) -> None:
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=4,
            max_keepalive_connections=2,
            keepalive_expiry=_KEEPALIVE_S,
            retries=0,
            network_backend=backend,
        )


class GuardedBackend(httpcore.NetworkBackend):
    """Connects to addresses that were checked, and holds every stream to the clock."""

    def __init__(self, clock: Clock, resolve: Resolve, allowed: Callable[[str], bool]) -> None:
        self._clock = clock
        self._resolve = resolve
        self._allowed = allowed
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the clock knows better
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of `host` that may be reached and answers.

        Raises:
            AddressRefused: none may be reached.
            httpcore.ConnectError, httpcore.ConnectTimeout: none answers, or not in time.
        """
        address = literal(host)
        found = [str(address)] if address is not None else self._look_up(host, port)
        usable = [one for one in found if self._allowed(one)]
        if not usable:
            raise AddressRefused("its host is a private address" if found else "its host has no address")
        for one in usable[:-1]:
            try:
                return self._connect(one, port, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return self._connect(usable[-1], port, local_address, socket_options)

    def _connect(
        self, address: str, port: int, local_address: str | None, socket_options: Iterable[Any] | None
    ) -> httpcore.NetworkStream:
        left = self._clock.left_to_connect()
        return _Stream(self._sockets.connect_tcp(address, port, left, local_address, socket_options), self._clock)

    def _look_up(self, host: str, port: int) -> list[str]:
        """Resolve in a thread that can be left behind: the system's resolver takes no timeout."""
        answers: queue.SimpleQueue[list[str] | OSError | UnicodeError] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(list(dict.fromkeys(self._resolve(host, port))))
            except (OSError, UnicodeError) as error:
                answers.put(error)

        threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
        try:
            answer = answers.get(timeout=self._clock.left_to_connect())
        except queue.Empty:
            raise httpcore.ConnectTimeout(f"{host} was not resolved in time") from None
        if isinstance(answer, Exception):
            raise httpcore.ConnectError(f"{host} cannot be resolved: {answer}") from answer
        return answer


class _Stream(httpcore.NetworkStream):
    """A connection whose every wait ends with the exchange's deadline."""

    def __init__(self, inner: httpcore.NetworkStream, clock: Clock) -> None:
        self._inner = inner
        self._clock = clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the clock knows better
        return self._inner.read(max_bytes, self._clock.left(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - the clock knows better
        # In blocks, since the timeout of a write starts anew with every part that the peer takes.
        for start in range(0, len(buffer), _BLOCK):
            self._inner.write(buffer[start : start + _BLOCK], self._clock.left(httpcore.WriteTimeout))

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002 - the clock knows better
    ) -> httpcore.NetworkStream:
        left = self._clock.left_to_connect()
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left), self._clock)

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
