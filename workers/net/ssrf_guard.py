"""The guard against server-side request forgery (SSRF): it connects to checked addresses only, within one deadline.

It works where a connection is made. It resolves the name once, drops forbidden addresses, and connects to the very
address that it has checked; TLS and the Host header keep the name. So these do not bypass it: a name that resolves to a
private address, a name whose address changes between two resolutions, a redirect.
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
"""Resolves a name and a port to addresses, best first; raises OSError where there is none."""

_KEEPALIVE_S = 15
_BLOCK = 1 << 16


class AddressRefused(Exception):
    """The guard refused an address."""


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system's resolver orders them.

    Raises:
        OSError: the name has no address.
    """
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Clock:
    """The deadline of its thread's current exchange."""

    def __init__(self) -> None:
        self.start(0, 0)

    def start(self, deadline_s: float, connect_timeout_s: float) -> None:
        """Start an exchange.

        Args:
            deadline_s: how long the whole exchange may take, in seconds.
            connect_timeout_s: how long each connection may take, in seconds.
        """
        self._ends = time.monotonic() + deadline_s
        self.connect_timeout_s = connect_timeout_s

    def left(self, late: type[Exception]) -> float:
        """Seconds until the deadline.

        Raises:
            Exception: of the type `late`, after the deadline.
        """
        left = self._ends - time.monotonic()
        if left <= 0:
            raise late("the exchange took too long")
        return left

    def left_to_connect(self) -> float:
        """Seconds that a connection may take.

        Raises:
            httpcore.ConnectTimeout: the deadline has passed.
        """
        return min(self.left(httpcore.ConnectTimeout), self.connect_timeout_s)


class GuardedTransport(httpx.HTTPTransport):
    """httpx's transport with our own network backend: httpcore accepts one, httpx has no argument for it."""

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
    """Connects to checked addresses, and applies the deadline to every stream."""

    def __init__(self, clock: Clock, resolve: Resolve, allowed: Callable[[str], bool]) -> None:
        self._clock = clock
        self._resolve = resolve
        self._allowed = allowed
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the clock decides
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of `host` that is allowed and answers.

        Raises:
            AddressRefused: no address is allowed.
            httpcore.ConnectError, httpcore.ConnectTimeout: no allowed address answers, or not in time.
        """
        address = literal(host)
        found = [str(address)] if address is not None else self._look_up(host, port)
        allowed = [candidate for candidate in found if self._allowed(candidate)]
        if not allowed:
            raise AddressRefused("its host is a private address" if found else "its host has no address")
        for candidate in allowed[:-1]:
            try:
                return self._connect(candidate, port, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return self._connect(allowed[-1], port, local_address, socket_options)

    def _connect(
        self, address: str, port: int, local_address: str | None, socket_options: Iterable[Any] | None
    ) -> httpcore.NetworkStream:
        left = self._clock.left_to_connect()
        return _Stream(self._sockets.connect_tcp(address, port, left, local_address, socket_options), self._clock)

    def _look_up(self, host: str, port: int) -> list[str]:
        """Resolve in a thread that can be abandoned: the system's resolver has no timeout."""
        answers: queue.SimpleQueue[list[str] | OSError | UnicodeError] = queue.SimpleQueue()

        def look_up() -> None:
            try:
                answers.put(list(dict.fromkeys(self._resolve(host, port))))
            except (OSError, UnicodeError) as error:
                answers.put(error)

        threading.Thread(target=look_up, name=f"resolve {host}", daemon=True).start()
        try:
            answer = answers.get(timeout=self._clock.left_to_connect())
        except queue.Empty:
            raise httpcore.ConnectTimeout(f"{host} was not resolved in time") from None
        if isinstance(answer, Exception):
            raise httpcore.ConnectError(f"{host} cannot be resolved: {answer}") from answer
        return answer


class _Stream(httpcore.NetworkStream):
    """A connection; every wait on it ends with the exchange's deadline."""

    def __init__(self, inner: httpcore.NetworkStream, clock: Clock) -> None:
        self._inner = inner
        self._clock = clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the clock decides
        return self._inner.read(max_bytes, self._clock.left(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - the clock decides
        # In blocks: httpcore restarts a write's timeout with every part that the peer accepts.
        for start in range(0, len(buffer), _BLOCK):
            self._inner.write(buffer[start : start + _BLOCK], self._clock.left(httpcore.WriteTimeout))

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002 - the clock decides
    ) -> httpcore.NetworkStream:
        left = self._clock.left_to_connect()
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left), self._clock)

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
