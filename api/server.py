"""The API as a process: what `retouch api` runs."""

import threading
import time
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI
from redis.exceptions import RedisError

from api.app import create_app
from api.waiting import JobWaiter
from jobs.foundation.logs import configure_logging
from jobs.foundation.settings import load_settings
from jobs.plan.planner import Planner
from jobs.wiring import Domain

STORE_PAUSE_S = 1.0
GRACE_S = 20
"""How long a request that is being answered may go on after the process was asked to end, in seconds."""

log = structlog.get_logger(__name__)


class Server(uvicorn.Server):
    """Uvicorn, whose waiting requests answer with what they know as soon as the process is asked to end."""

    def __init__(self, config: uvicorn.Config, waiter: JobWaiter) -> None:
        super().__init__(config)
        self._waiter = waiter

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT: no new connections, and nobody waits any longer."""
        self._waiter.stop()
        super().handle_exit(sig, frame)


def make_server(app: FastAPI, host: str, port: int) -> Server:
    """A server for an app of `create_app`; `port` 0 takes a free one. Its log is the app's own."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=65,
    )
    return Server(config, app.state.parts.job_waiter)


def serve(host: str, port: int) -> None:
    """Serve the API until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: the environment or the catalogue cannot be used.
    """
    settings = load_settings()
    configure_logging(settings)
    domain = Domain.open(settings)
    try:
        threading.Thread(target=_register_models, args=(domain.planner,), name="models", daemon=True).start()
        make_server(create_app(domain), host, port).run()
    finally:
        domain.close()


def _register_models(planner: Planner) -> None:
    """Make the models known as soon as the store answers: until then requests are answered by 503."""
    while True:
        try:
            planner.register_models()
        except RedisError as error:
            log.warning("api.store_unreachable", error=str(error))
            time.sleep(STORE_PAUSE_S)
        else:
            return
