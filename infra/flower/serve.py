"""Running Flower so that it is never open, knows its past, and keeps within its memory."""

import os
from dataclasses import dataclass
from pathlib import Path

from jobs.foundation.errors import ConfigurationError
from jobs.foundation.logs import configure_logging
from jobs.foundation.settings import Settings

CONFIG = Path(__file__).with_name("flowerconfig.py")
MAX_TASKS = 20_000
"""Tasks kept unless told otherwise: about 140 MB, and saved in some 2 s (Flower 2.2: 6.8 KB and 0.12 ms a task)."""


@dataclass(frozen=True)
class FlowerOptions:
    """How Flower is run.

    Attributes:
        port, address: to listen on. `/metrics` and `/healthcheck` ask for no password (Flower 2.2): let only what
            scrapes and supervises it reach the address.
        db: file that keeps what it has seen, for its next start; None keeps it in memory.
        max_tasks: most tasks kept; the oldest is forgotten first.
        url_prefix: path under which a proxy shows it; "" for none.
        control: whether its pages may act on workers. A job is canceled by the API, not here: a task that
            is revoked here comes back when its lease ends, and Celery's pool of threads cannot end one that runs.
    """

    port: int
    address: str = "127.0.0.1"
    db: Path | None = None
    max_tasks: int = MAX_TASKS
    url_prefix: str = ""
    control: bool = False

    @property
    def arguments(self) -> list[str]:
        """The command line, without any secret."""
        given = {
            "conf": CONFIG,
            "address": self.address,
            "port": self.port,
            "max_tasks": self.max_tasks,
            "read_only": str(not self.control).lower(),
            "persistent": str(self.db is not None).lower(),
            "logging": "none",  # Tornado's own format and level; ours are set before
        }
        if self.db is not None:
            given["db"] = self.db.absolute()
        if self.url_prefix:
            given["url_prefix"] = self.url_prefix.strip("/")
        return ["flower", *(f"--{name}={value}" for name, value in given.items())]


def serve(settings: Settings, options: FlowerOptions) -> int:
    """Run Flower until told to stop; returns the exit status.

    Raises:
        ConfigurationError: FLOWER_BASIC_AUTH is no `user:password` (several are separated by commas), or there is no
            place for the file.
    """
    logins = os.environ.get("FLOWER_BASIC_AUTH", "").split(",")
    if not all(user and colon and password for user, colon, password in (login.partition(":") for login in logins)):
        raise ConfigurationError(
            "FLOWER_BASIC_AUTH must be user:password: Flower shows every task, so it is not left open"
        )
    if options.db is not None:
        try:
            options.db.absolute().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"--db {options.db}: {error.strerror}") from error
    from jobs.queueing.broker import make_celery  # noqa: PLC0415 - Celery is slow to import

    configure_logging(settings)
    # Flower takes the logins from the environment: on the command line every user of the machine could read them.
    app = make_celery(settings)
    try:
        app.start(argv=options.arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0
