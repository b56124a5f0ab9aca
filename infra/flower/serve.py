"""Runs Flower with a login, a database of past tasks, and a limit on memory."""

import os
from dataclasses import dataclass
from pathlib import Path

from jobs.foundation.errors import ConfigurationError
from jobs.foundation.logs import configure_logging
from jobs.foundation.settings import Settings

CONFIG = Path(__file__).with_name("flowerconfig.py")
MAX_TASKS = 20_000
"""Default number of tasks in memory: about 140 MB, saved in about 2 s (Flower 2.2: 6.8 KB and 0.12 ms a task)."""


@dataclass(frozen=True)
class FlowerOptions:
    """The options of Flower.

    Attributes:
        port, address: listening address. `/metrics` and `/healthcheck` need no password (Flower 2.2), so only the
            monitoring system may reach the address.
        db: file that stores past events for the next start; None keeps them in memory.
        max_tasks: maximum number of tasks; the oldest are removed first.
        url_prefix: URL path behind a proxy; "" for none.
        control: whether the pages may control workers. Cancel jobs with the API, not here: a task revoked here runs
            again when its lease expires, and Celery's thread pool cannot stop a running task.
    """

    port: int
    address: str = "127.0.0.1"
    db: Path | None = None
    max_tasks: int = MAX_TASKS
    url_prefix: str = ""
    control: bool = False

    @property
    def arguments(self) -> list[str]:
        """The command line. It contains no secrets."""
        flags = {
            "conf": CONFIG,
            "address": self.address,
            "port": self.port,
            "max_tasks": self.max_tasks,
            "read_only": str(not self.control).lower(),
            "persistent": str(self.db is not None).lower(),
            "logging": "none",  # keep the logging that we configure
        }
        if self.db is not None:
            flags["db"] = self.db.absolute()
        if self.url_prefix:
            flags["url_prefix"] = self.url_prefix.strip("/")
        return ["flower", *(f"--{name}={value}" for name, value in flags.items())]


def serve(settings: Settings, options: FlowerOptions) -> int:
    """Run Flower until SIGTERM; returns the exit status.

    Raises:
        ConfigurationError: FLOWER_BASIC_AUTH is not `user:password` (commas separate several), or the directory of
            the database cannot be created.
    """
    logins = os.environ.get("FLOWER_BASIC_AUTH", "").split(",")
    if not all(user and colon and password for user, colon, password in (login.partition(":") for login in logins)):
        raise ConfigurationError(
            "FLOWER_BASIC_AUTH must be user:password: Flower shows every task, so it needs a login"
        )
    if options.db is not None:
        try:
            options.db.absolute().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"--db {options.db}: {error.strerror}") from error
    from jobs.queueing.celery_app import make_celery  # noqa: PLC0415 - Celery is slow to import

    configure_logging(settings)
    # Flower reads the logins from the environment. Every user of the machine could read a command line.
    app = make_celery(settings)
    try:
        app.start(argv=options.arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0
