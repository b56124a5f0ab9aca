"""The simulator as a server: in a process of its own, or in a thread of one that wants it at hand."""

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
    """Listen on an address; port 0 takes a free one.

    Raises:
        OSError: the address cannot be had.
    """
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # asyncio turns Nagle's algorithm off only for sockets that name their protocol. Left on, it costs an answer
    # of two writes the 40 ms of a delayed acknowledgement.
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
    """A server of a new simulator, to be run on a socket from `listen`."""
    config = uvicorn.Config(
        create_app(knobs),
        access_log=False,
        log_level="warning",
        # Longer than a caller keeps a connection of its pool, so that no idle one is closed as it is used.
        timeout_keep_alive=75,
        # Hung calls would hold the server for ever.
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


@contextlib.contextmanager
def serve_in_thread(knobs: Knobs) -> Iterator[str]:
    """Serve a simulator on a free loopback port while the context is open.

    Yields:
        Its origin, ``http://127.0.0.1:PORT``; the base URL of its API is that with ``/v1``.
    """
    # Listening before the thread starts: whoever connects early waits in the backlog.
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
