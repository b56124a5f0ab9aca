"""Entry points of the production processes: the API, a worker, and Flower."""

from collections.abc import Iterator
from contextlib import contextmanager

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from infra.flower.serve import FlowerOptions
from infra.flower.serve import serve as serve_flower
from jobs.foundation.errors import ConfigurationError, RetouchError, Unavailable
from jobs.foundation.settings import load_settings


class CannotStart(Exception):
    """A process cannot start. The message is one line for the user; `status` is the exit status of the command."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def clear_errors() -> Iterator[None]:
    """Convert expected errors into one line and an exit status: 2 for an invalid setting, 3 if a server is unreachable.

    Raises:
        CannotStart: an expected error occurred.
    """
    try:
        yield
    except (Unavailable, RedisError, OperationalError) as error:
        raise CannotStart(f"a server does not answer: {error}", 3) from error
    except RetouchError as error:
        raise CannotStart(str(error), 2) from error


def run_api(host: str, port: int) -> int:
    """Serve the submit API until SIGTERM; returns the exit status 0.

    Raises:
        jobs.foundation.errors.ConfigurationError: the settings or the catalogue are invalid.
    """
    from api.server import serve  # noqa: PLC0415 - workers and Flower do not need it

    serve(host, port)
    return 0


def run_worker(
    queues: list[str], concurrency: int, grace_s: float, name: str | None, *, metrics_port: int | None = None
) -> int:
    """Process tasks from these queues until SIGTERM; returns the exit status.

    Args:
        queues: names of `jobs.queueing.celery_app.QUEUES`.
        concurrency: number of threads.
        grace_s: seconds that running tasks have to finish after SIGTERM.
        name: unique name of the worker; None generates one.
        metrics_port: port for its metrics; None uses RETOUCH_METRICS_PORT.

    Raises:
        jobs.foundation.errors.ConfigurationError: the settings or the catalogue are invalid, or a queue is unknown.
    """
    from jobs.queueing.celery_app import QUEUES  # noqa: PLC0415
    from workers.process.app import run_worker as run  # noqa: PLC0415 - the API and Flower do not need it

    unknown = [queue for queue in queues if queue not in QUEUES]
    if unknown or not queues:
        raise ConfigurationError(f"there is no queue {(unknown or [''])[0]!r}: use {', '.join(QUEUES)}")
    settings = load_settings()
    if metrics_port is not None:
        settings = settings.model_copy(update={"metrics_port": metrics_port})
    return run(settings, queues=queues, concurrency=concurrency, grace_s=grace_s, name=name)


def run_flower(options: FlowerOptions) -> int:
    """Serve Flower until SIGTERM; returns the exit status.

    Raises:
        jobs.foundation.errors.ConfigurationError: FLOWER_BASIC_AUTH is missing, or the file's folder cannot be written.
    """
    return serve_flower(load_settings(), options)
