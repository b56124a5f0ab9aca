"""`retouch doctor`: runs every check in order. Each finding has a message and an advice."""

import time
from collections.abc import Callable

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from infra.doctor.checks import CHECKS, Finding, Findings, Ground, check_urls
from jobs.foundation.errors import ConfigurationError, RetouchError
from jobs.foundation.settings import Settings, load_settings
from jobs.wiring import Domain


def examine(settings: Settings | None = None, *, now: Callable[[], float] = time.time) -> list[Finding]:
    """Run all checks. They write one object to the bucket and delete it again.

    Args:
        settings: settings of the stack; None loads them from the environment.
        now: returns this machine's time in seconds since 1970.

    Returns:
        The findings, in the order of the checks. A failed check is a finding, not an exception.
    """
    try:
        chosen = settings or load_settings()
        invalid_urls = list(check_urls(chosen))
        if invalid_urls:
            return invalid_urls
        domain = Domain.open(chosen)
    except ConfigurationError as error:
        return [Finding("settings", "fault", str(error), "correct the variable, or the file that it names")]
    ground = Ground(chosen, domain, now)
    try:
        return [finding for name, check, advice in CHECKS for finding in _run(ground, name, check, advice)]
    finally:
        domain.close()


def _run(ground: Ground, name: str, check: Callable[[Ground], Findings], advice: str) -> Findings:
    try:
        yield from check(ground)
    except (RedisError, OperationalError, RetouchError, OSError) as error:
        yield Finding(name, "fault", f"does not answer: {error}", advice)
