"""Helpers for tests in which a server stops and starts again."""

import time
from collections import Counter
from collections.abc import Callable
from io import BytesIO

import httpx
from PIL import Image
from redis.exceptions import RedisError

from jobs.foundation.job_states import FINAL
from jobs.foundation.settings import Settings
from tests.support.fleet import Fleet
from tests.support.waiting import eventually

MakeFleet = Callable[..., Fleet]
MakeSettings = Callable[..., Settings]


def small(shade: int = 90) -> bytes:
    """A very small picture."""
    buffer = BytesIO()
    Image.new("RGB", (48, 32), (shade, 120, 60)).save(buffer, "PNG")
    return buffer.getvalue()


def outlast(seconds: float, holds: Callable[[], object]) -> None:
    """Wait for some seconds, and assert that a condition holds all the time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert holds()
        time.sleep(0.25)


def tries(fleet: Fleet, job_id: str) -> int:
    return int(str(fleet.domain.redis.hget(fleet.domain.keys.job(job_id), "tries") or 0))


def outcomes(fleet: Fleet, job_id: str) -> list[str]:
    return [attempt.outcome for attempt in fleet.job(job_id).attempts]


def all_end(fleet: Fleet, jobs: list[str], within_s: float = 120) -> None:
    """Wait until all jobs have ended. The store may be down at first."""

    def ended() -> bool:
        try:
            return all(fleet.job(job_id).state in FINAL for job_id in jobs)
        except RedisError:
            return False

    eventually(ended, within_s=within_s, what=f"{len(jobs)} jobs end")


def purchases(origin: str) -> Counter[str]:
    """How often each prompt was paid for."""
    calls = httpx.get(f"{origin}/_sim/calls", timeout=60).json()["data"]
    return Counter(call["prompt"] for call in calls if call["billed"])
