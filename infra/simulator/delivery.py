"""Answers that go wrong on the wire: reset, hung, cut short, dripping, endless.

They need the connection's transport, which `SimulatorApp` takes from the server and lays into the scope.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, cast

from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

TRANSPORT = "retouch.transport"
_TICKS_PER_S = 10
_CHUNK = 256 * 1024


class Reset(Response):
    """No answer: the connection is torn down, the caller sees a reset."""

    async def __call__(self, scope: Scope, receive: Receive, _send: Send) -> None:
        """Reset the connection."""
        transport = _transport(scope)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            # A linger of zero makes the close a reset; without it the caller reads a clean end.
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        await _gone(receive)


class Hang(Response):
    """No answer, ever: it ends when the caller goes away."""

    async def __call__(self, _scope: Scope, receive: Receive, _send: Send) -> None:
        """Wait for the caller to lose patience."""
        await _gone(receive)


class Truncated(Response):
    """An answer whose Content-Length is honest and whose second half never comes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send half and close."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        _transport(scope).close()
        await _gone(receive)


class Dripped(Response):
    """An answer at so many bytes a second, in ten sips a second."""

    def __init__(self, response: Response, bytes_per_s: int) -> None:
        super().__init__(response.body, response.status_code)
        self.raw_headers = response.raw_headers
        self._sip = max(1, bytes_per_s // _TICKS_PER_S)
        self._pause = self._sip / max(1, bytes_per_s)

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Drip until all is said or the caller goes away."""
        left = asyncio.ensure_future(_gone(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            body = bytes(self.body)
            for place in range(0, len(body), self._sip):
                more = place + self._sip < len(body)
                await send({"type": "http.response.body", "body": body[place : place + self._sip], "more_body": more})
                if (await asyncio.wait({left}, timeout=self._pause))[0]:
                    return
        finally:
            left.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await left


class Oversized(Response):
    """A correct answer followed by blanks until it has so many bytes; of unknown length to the caller."""

    def __init__(self, response: Response, size: int) -> None:
        super().__init__(response.body, response.status_code)
        self.raw_headers = [pair for pair in response.raw_headers if pair[0] != b"content-length"]
        self._size = size

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer and the padding, unless the caller goes away first."""
        left = asyncio.ensure_future(_gone(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            chunk = bytes(self.body)
            sent = 0
            while chunk and not left.done():
                sent += len(chunk)
                following = b" " * min(_CHUNK, self._size - sent) if sent < self._size else b""
                await send({"type": "http.response.body", "body": chunk, "more_body": bool(following)})
                chunk = following
                await asyncio.sleep(0)  # lets the news that the caller left come in
        finally:
            left.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await left


def _transport(scope: Scope) -> asyncio.Transport:
    transport = scope.get(TRANSPORT)
    if transport is None:
        raise RuntimeError("this fault needs a real connection: run the simulator under uvicorn")
    return cast("asyncio.Transport", transport)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
