"""The simulator as a server, for a separate process or for a thread of a test."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import uvicorn

from infra.simulator.app import create_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.simulator.knobs import Knobs


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address; port 0 selects a free port.

    Raises:
        OSError: the address is not available.
    """
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # asyncio disables Nagle's algorithm only for sockets with an explicit protocol. Otherwise an answer of two
    # writes waits 40 ms for a delayed acknowledgement.
    listener = socket.socket(family, kind, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


def server(knobs: Knobs) -> uvicorn.Server:
    """A server of a new simulator; run it on a socket from `listen`."""
    config = uvicorn.Config(
        create_app(knobs),
        access_log=False,
        log_level="warning",
        # Longer than callers keep idle connections, so that no connection is closed while a caller reuses it.
        timeout_keep_alive=75,
        # Hung calls would block the shutdown forever.
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


@contextlib.contextmanager
def serve_in_thread(knobs: Knobs) -> Iterator[str]:
    """Serve a simulator on a free loopback port while the context is open.

    Yields:
        Its origin, ``http://127.0.0.1:PORT``; append ``/v1`` for the base URL of the API.
    """
    # Listen before the thread starts: early connections wait in the backlog.
    listener = listen("127.0.0.1", 0)
    running = server(knobs)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, name="simulator", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join()
        listener.close()
