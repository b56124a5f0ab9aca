"""Whether a worker still takes the messages in its queues. Pure: no I/O, no clock.

After a lost connection to the broker, a worker of Celery may stay alive and consume nothing: its heartbeat continues,
its threads count, and no message starts. Four facts tell such a worker from others. An idle worker has no messages in
its queues. A busy worker has no free thread. A worker whose broker is down gets no answer from it. Lost messages and
the jobs of parked models are in no queue.
"""

from dataclasses import dataclass, replace
from enum import Enum


class Verdict(Enum):
    """What to do about a worker."""

    WELL = "well"
    RESTART = "restart"
    """Its consumer must reconnect."""
    LEAVE = "leave"
    """The restart did not help: the worker must hand back its jobs and end, so that its supervisor starts it again."""


@dataclass(frozen=True)
class Observation:
    """A worker at one moment.

    Attributes:
        at_s: the moment, by a monotonic clock, in seconds.
        taken: messages that the worker has taken since it was started.
        free: threads that run no task.
        backlog: messages in its queues that no worker has taken; None where the broker does not answer.
    """

    at_s: float
    taken: int
    free: int
    backlog: int | None


@dataclass(frozen=True)
class StallWatch:
    """What is remembered between two observations.

    Attributes:
        patience_s: how long messages may wait beside a free thread, in seconds.
        taken: as of the last observation.
        since_s: since when messages wait beside a free thread; None where they do not.
        restarted: whether the consumer was restarted and has taken no message since.
    """

    patience_s: float
    taken: int = 0
    since_s: float | None = None
    restarted: bool = False

    def after(self, seen: Observation) -> tuple["StallWatch", Verdict]:
        """What to remember from now on, and what to do."""
        if seen.taken != self.taken:
            return StallWatch(self.patience_s, seen.taken), Verdict.WELL
        if seen.free <= 0 or not seen.backlog:
            return replace(self, since_s=None), Verdict.WELL
        if self.since_s is None:
            return replace(self, since_s=seen.at_s), Verdict.WELL
        if seen.at_s - self.since_s < self.patience_s:
            return self, Verdict.WELL
        if self.restarted:
            return self, Verdict.LEAVE
        return replace(self, since_s=seen.at_s, restarted=True), Verdict.RESTART
