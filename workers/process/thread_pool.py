"""How a worker shares out its threads among the queues it serves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from jobs.queueing.celery_app import CHORES, EDITS, WEBHOOKS

CHORES_BESIDE = 2
"""Threads for chores in a process that edits."""


@dataclass(frozen=True)
class Threads:
    """How a process's threads are shared out.

    Attributes:
        edits: that the plan may fill with edits.
        deliveries: that the deliveries' plan reckons with.
        pool: all there are.
    """

    edits: int
    deliveries: int
    pool: int

    @classmethod
    def of(cls, queues: Sequence[str], concurrency: int) -> Self:
        """`concurrency` threads for what the process is mainly for; beside edits, all else has threads of its own.

        Edits never wait for a receiver that hangs: deliveries get as many threads more as may be published at once,
        see `room` in deliveries/plan.lua.
        """
        if EDITS not in queues:
            return cls(0, concurrency, concurrency)
        deliveries = max(1, concurrency // 4) if WEBHOOKS in queues else 0
        more = (3 * deliveries + 1 if deliveries else 0) + (CHORES_BESIDE if CHORES in queues else 0)
        return cls(concurrency, deliveries, concurrency + more)
