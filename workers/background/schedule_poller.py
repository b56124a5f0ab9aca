"""Firing schedules: every worker looks, and whoever is first claims. No beat process, no leader."""

import threading
from collections.abc import Callable

import structlog
from redis.exceptions import RedisError

from jobs.wiring import Domain

LOOK_S = 1.0
"""How often each worker looks for schedules whose tick has come."""
MOST = 50

log = structlog.get_logger(__name__)


def start_firing(domain: Domain) -> Callable[..., None]:
    """Fire schedules until the process ends; returns what ends it."""
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_S):
            try:
                fire(domain)
            except RedisError as error:
                log.warning("firing.store_unreachable", error=str(error))
            except Exception:
                log.exception("firing.failed")

    threading.Thread(target=look, name="firing", daemon=True).start()
    return lambda **_: stop.set()


def fire(domain: Domain) -> int:
    """Turn every tick that has come into its run; returns how many runs this call made.

    A process that is killed in the middle leaves runs that are chores: another makes their batches.

    Raises:
        redis.exceptions.RedisError: the store does not answer.
    """
    made = 0
    failed: set[str] = set()
    while due := [one for one in domain.schedules.due(most=MOST + len(failed)) if one.schedule_id not in failed]:
        for one in due:
            try:
                claimed = domain.schedules.claim(one)
            except ValueError as error:
                # A time zone that this machine does not know, say: another worker may.
                log.error("firing.unreadable", schedule_id=one.schedule_id, error=str(error))  # noqa: TRY400
                failed.add(one.schedule_id)
                continue
            if claimed is not None:
                made += claimed.runs
                log.info("firing.fired", schedule_id=one.schedule_id, runs=claimed.runs, missed=claimed.missed)
    if made:
        domain.chore_publisher.publish_due()
    return made
