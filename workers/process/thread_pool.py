"""How a worker divides its threads among its queues."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from jobs.queueing.celery_app import BACKGROUND, EDITS, WEBHOOKS

BACKGROUND_THREADS = 2
"""Threads for background tasks in a process that edits."""


@dataclass(frozen=True)
class Threads:
    """A process's threads.

    Attributes:
        edits: how many edits the plan may start here.
        deliveries: how many threads the plan of deliveries counts on.
        pool: all threads.
    """

    edits: int
    deliveries: int
    pool: int

    @classmethod
    def of(cls, queues: Sequence[str], concurrency: int) -> Self:
        """Give `concurrency` threads to the main queue; beside edits, other queues get additional threads.

        Edits never wait for a receiver that hangs: deliveries get as many additional threads as messages may be
        published at once, see `room` in `deliveries/plan.lua`.
        """
        if EDITS not in queues:
            return cls(0, concurrency, concurrency)
        deliveries = max(1, concurrency // 4) if WEBHOOKS in queues else 0
        more = (3 * deliveries + 1 if deliveries else 0) + (BACKGROUND_THREADS if BACKGROUND in queues else 0)
        return cls(concurrency, deliveries, concurrency + more)
