"""Answers with transport faults: reset, hung, truncated, slow, oversized.

They need the connection's transport. `SimulatorApp` takes it from the server and puts it into the ASGI scope.
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
_CHUNKS_PER_S = 10
_PADDING_CHUNK = 256 * 1024


class Reset(Response):
    """No answer: the connection is reset."""

    async def __call__(self, scope: Scope, receive: Receive, _send: Send) -> None:
        """Reset the connection."""
        transport = _transport(scope)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            # With a linger of zero, closing sends a reset; otherwise the caller would see a normal end.
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        await _wait_for_disconnect(receive)


class Hang(Response):
    """No answer: the call ends when the caller disconnects."""

    async def __call__(self, _scope: Scope, receive: Receive, _send: Send) -> None:
        """Wait until the caller disconnects."""
        await _wait_for_disconnect(receive)


class Truncated(Response):
    """An answer with the right Content-Length, of which only the first half is sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the first half and close the connection."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        _transport(scope).close()
        await _wait_for_disconnect(receive)


class Dripped(Response):
    """An answer that is sent at ``bytes_per_s``, in ten chunks a second."""

    def __init__(self, response: Response, bytes_per_s: int) -> None:
        super().__init__(response.body, response.status_code)
        self.raw_headers = response.raw_headers
        self._chunk_bytes = max(1, bytes_per_s // _CHUNKS_PER_S)
        self._pause = self._chunk_bytes / max(1, bytes_per_s)

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send slowly until all bytes are sent or the caller disconnects."""
        disconnected = asyncio.ensure_future(_wait_for_disconnect(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            body = bytes(self.body)
            for start in range(0, len(body), self._chunk_bytes):
                more = start + self._chunk_bytes < len(body)
                await send(
                    {"type": "http.response.body", "body": body[start : start + self._chunk_bytes], "more_body": more}
                )
                if (await asyncio.wait({disconnected}, timeout=self._pause))[0]:
                    return
        finally:
            disconnected.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await disconnected


class Oversized(Response):
    """A correct answer, padded with blanks to ``size`` bytes, without a Content-Length."""

    def __init__(self, response: Response, size: int) -> None:
        super().__init__(response.body, response.status_code)
        self.raw_headers = [pair for pair in response.raw_headers if pair[0] != b"content-length"]
        self._size = size

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer and the padding, or stop when the caller disconnects."""
        disconnected = asyncio.ensure_future(_wait_for_disconnect(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            chunk = bytes(self.body)
            sent = 0
            while chunk and not disconnected.done():
                sent += len(chunk)
                next_chunk = b" " * min(_PADDING_CHUNK, self._size - sent) if sent < self._size else b""
                await send({"type": "http.response.body", "body": chunk, "more_body": bool(next_chunk)})
                chunk = next_chunk
                await asyncio.sleep(0)  # lets a disconnect be noticed
        finally:
            disconnected.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await disconnected


def _transport(scope: Scope) -> asyncio.Transport:
    transport = scope.get(TRANSPORT)
    if transport is None:
        raise RuntimeError("this fault needs a real connection: run the simulator under uvicorn")
    return cast("asyncio.Transport", transport)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
