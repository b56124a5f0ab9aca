"""Whether a worker still takes what lies in its queues. Pure; no I/O, no clock.

A worker of Celery may come back from a lost connection to its broker, live on, and consume no more: its pulse is felt,
its threads count, and nothing it is given is ever begun. What tells it from one that has nothing to do is that messages
lie in its queues; from one that is busy, that it has a free thread; from one whose broker is away, that the broker
answers; from one whose messages were lost, or whose models are parked, that those lie in no queue.
"""

from dataclasses import dataclass, replace
from enum import Enum


class Verdict(Enum):
    """What is to be done about a worker."""

    WELL = "well"
    RESTART = "restart"
    """Its consumer is to connect anew."""
    LEAVE = "leave"
    """That did not help: it is to hand back what it holds and end, for whoever starts it again."""


@dataclass(frozen=True)
class Look:
    """A worker at a moment.

    Attributes:
        at_s: the moment, by a clock that only goes forward, in seconds.
        taken: messages it has taken since it was started.
        free: threads that have nothing to do.
        backlog: messages in its queues that nobody has taken; None where the broker does not say.
    """

    at_s: float
    taken: int
    free: int
    backlog: int | None


@dataclass(frozen=True)
class Watch:
    """What is remembered between two looks.

    Attributes:
        patience_s: how long messages may lie there beside a free thread, in seconds.
        taken: as of the last look.
        since_s: since when they lie there; None where they do not.
        restarted: whether its consumer was restarted and nothing has been taken since.
    """

    patience_s: float
    taken: int = 0
    since_s: float | None = None
    restarted: bool = False

    def after(self, look: Look) -> tuple["Watch", Verdict]:
        """What is remembered from now on, and what is to be done."""
        if look.taken != self.taken:
            return Watch(self.patience_s, look.taken), Verdict.WELL
        if look.free <= 0 or not look.backlog:
            return replace(self, since_s=None), Verdict.WELL
        if self.since_s is None:
            return replace(self, since_s=look.at_s), Verdict.WELL
        if look.at_s - self.since_s < self.patience_s:
            return self, Verdict.WELL
        if self.restarted:
            return self, Verdict.LEAVE
        return replace(self, since_s=look.at_s, restarted=True), Verdict.RESTART
