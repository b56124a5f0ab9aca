"""The API process, which `retouch api` runs."""

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
"""How long open requests may continue after a shutdown signal, in seconds."""

log = structlog.get_logger(__name__)


class Server(uvicorn.Server):
    """Uvicorn, with an early end of waiting requests: on a shutdown signal they return the job as it is."""

    def __init__(self, config: uvicorn.Config, waiter: JobWaiter) -> None:
        super().__init__(config)
        self._waiter = waiter

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On SIGTERM or SIGINT: accept no new connections and end all waits."""
        self._waiter.stop()
        super().handle_exit(sig, frame)


def make_server(app: FastAPI, host: str, port: int) -> Server:
    """A server for an app of `create_app`; `port` 0 selects a free port. The app writes the access log, not Uvicorn."""
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
        ConfigurationError: the environment or the catalogue is invalid.
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
    """Register the models, with retries until Redis answers. Until then, requests get a 503."""
    while True:
        try:
            planner.register_models()
        except RedisError as error:
            log.warning("api.store_unreachable", error=str(error))
            time.sleep(STORE_PAUSE_S)
        else:
            return
