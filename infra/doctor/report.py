"""`retouch doctor`: every check, one after the other, each finding in a line with what to do about it."""

import time
from collections.abc import Callable

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from infra.doctor.checks import CHECKS, Finding, Findings, Ground, addresses
from jobs.foundation.errors import ConfigurationError, RetouchError
from jobs.foundation.settings import Settings, load_settings
from jobs.wiring import Domain


def examine(settings: Settings | None = None, *, now: Callable[[], float] = time.time) -> list[Finding]:
    """Look at everything and change nothing but one object of the bucket, which is deleted again.

    Args:
        settings: of the stack; from the environment unless given.
        now: this machine's clock, in seconds since 1970.

    Returns:
        What was found, in the order of the checks; nothing is raised for what is wrong.
    """
    try:
        chosen = settings or load_settings()
        unreadable = list(addresses(chosen))
        if unreadable:
            return unreadable
        domain = Domain.open(chosen)
    except ConfigurationError as error:
        return [Finding("settings", "fault", str(error), "correct that variable, or the file that it names")]
    ground = Ground(chosen, domain, now)
    try:
        return [finding for name, check, advice in CHECKS for finding in _made(ground, name, check, advice)]
    finally:
        domain.close()


def _made(ground: Ground, name: str, check: Callable[[Ground], Findings], advice: str) -> Findings:
    try:
        yield from check(ground)
    except (RedisError, OperationalError, RetouchError, OSError) as error:
        yield Finding(name, "fault", f"does not answer: {error}", advice)
