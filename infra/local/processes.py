"""Starting one process of production: the API, a worker, or Flower."""

from collections.abc import Iterator
from contextlib import contextmanager

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from infra.flower.serve import FlowerOptions
from infra.flower.serve import serve as serve_flower
from jobs.foundation.errors import ConfigurationError, RetouchError, Unavailable
from jobs.foundation.settings import load_settings


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
        jobs.foundation.errors.ConfigurationError: settings or catalogue that cannot be used.
    """
    from api.server import serve  # noqa: PLC0415 - a worker or Flower needs none of it

    serve(host, port)
    return 0


def run_worker(
    queues: list[str], concurrency: int, grace_s: float, name: str | None, *, metrics_port: int | None = None
) -> int:
    """Work on these queues until told to stop; returns the exit status.

    Args:
        queues: names of `jobs.queueing.broker.QUEUES`.
        concurrency: threads.
        grace_s: seconds that running tasks have when it is told to stop.
        name: one of a kind; made where None.
        metrics_port: where it serves its metrics; None leaves that to RETOUCH_METRICS_PORT.

    Raises:
        jobs.foundation.errors.ConfigurationError: settings or catalogue that cannot be used, or no such queue.
    """
    from jobs.queueing.broker import QUEUES  # noqa: PLC0415
    from workers.process.app import run_worker as run  # noqa: PLC0415 - the API or Flower needs none of it

    unknown = [queue for queue in queues if queue not in QUEUES]
    if unknown or not queues:
        raise ConfigurationError(f"no queue {(unknown or [''])[0]!r}: there is {', '.join(QUEUES)}")
    settings = load_settings()
    if metrics_port is not None:
        settings = settings.model_copy(update={"metrics_port": metrics_port})
    return run(settings, queues=queues, concurrency=concurrency, grace_s=grace_s, name=name)


def run_flower(options: FlowerOptions) -> int:
    """Serve Flower until told to stop; returns the exit status.

    Raises:
        jobs.foundation.errors.ConfigurationError: FLOWER_BASIC_AUTH is missing, or the file's folder cannot be written.
    """
    return serve_flower(load_settings(), options)
