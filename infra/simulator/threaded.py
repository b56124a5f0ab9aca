"""The simulator inside another process, for tests and measurements that want one at hand."""

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


@contextlib.contextmanager
def serve_in_thread(knobs: Knobs) -> Iterator[str]:
    """Serve a simulator on a free loopback port while the context is open.

    Yields:
        Its origin, ``http://127.0.0.1:PORT``; the base URL of its API is that with ``/v1``.
    """
    # Listening before the thread starts: whoever connects early waits in the backlog.
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(
        create_app(knobs),
        access_log=False,
        log_level="warning",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="simulator", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
