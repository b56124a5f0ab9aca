"""Starting one process of production: the API, a worker, or Flower."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from jobs.errors import ConfigurationError, RetouchError, Unavailable
from jobs.settings import load_settings


class CannotStart(Exception):
    """What was asked cannot be done, in one line for a person; `status` is the exit status of the command."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn what Retouch raises on purpose into one line and a status: 2 for a wrong setting, 3 if a server is missing.

    Raises:
        CannotStart: with the line and the status.
    """
    try:
        yield
    except (Unavailable, RedisError, OperationalError) as error:
        raise CannotStart(f"a server does not answer: {error}", 3) from error
    except RetouchError as error:
        raise CannotStart(str(error), 2) from error


def run_api(host: str, port: int) -> int:
    """Serve the submit API until it is told to stop; returns the exit status 0.

    Raises:
        jobs.errors.ConfigurationError: settings or catalogue that cannot be used.
    """
    from api.server import serve  # noqa: PLC0415 - a worker or Flower needs none of it

    serve(host, port)
    return 0


def run_worker(queues: list[str], concurrency: int, grace_s: float, name: str | None) -> int:
    """Work on these queues until told to stop; returns the exit status.

    Raises:
        jobs.errors.ConfigurationError: settings or catalogue that cannot be used, or no such queue.
    """
    from jobs.broker import QUEUES  # noqa: PLC0415
    from workers.app import run_worker as run  # noqa: PLC0415 - the API or Flower needs none of it

    unknown = [queue for queue in queues if queue not in QUEUES]
    if unknown or not queues:
        raise ConfigurationError(f"no queue {(unknown or [''])[0]!r}: there is {', '.join(QUEUES)}")
    return run(load_settings(), queues=queues, concurrency=concurrency, grace_s=grace_s, name=name)


def run_flower(port: int, address: str, *, db: Path | None = None, max_tasks: int = 10_000) -> int:
    """Serve Flower until told to stop; returns the exit status.

    Args:
        port: to listen on.
        address: to listen on.
        db: where it keeps what it has seen, for its next start; None keeps it in memory.
        max_tasks: most tasks kept; 100,000 took 680 MB with Flower 2.2.

    Raises:
        jobs.errors.ConfigurationError: FLOWER_BASIC_AUTH is missing: whoever reaches an open Flower can stop workers.
    """
    user, colon, password = os.environ.get("FLOWER_BASIC_AUTH", "").partition(":")
    if not (user and colon and password):
        raise ConfigurationError(
            "FLOWER_BASIC_AUTH must be user:password: Flower can stop workers, so it is not left open"
        )
    from jobs.broker import make_celery  # noqa: PLC0415 - Celery is slow to import

    arguments = ["flower", f"--address={address}", f"--port={port}", f"--max-tasks={max_tasks}", "--read-only=false"]
    if db is not None:
        arguments += ["--persistent=true", f"--db={db}", "--state-save-interval=60000"]
    # Not on the command line, where every user of the machine could read it: Flower takes it from the environment.
    os.environ["FLOWER_BASIC_AUTH"] = f"{user}:{password}"
    app = make_celery(load_settings())
    try:
        app.start(argv=arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0
