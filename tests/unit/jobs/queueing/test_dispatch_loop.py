"""The loop that plans and publishes, with plans and a broker made by the test."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kombu.exceptions import OperationalError

from jobs.queueing.dispatch_loop import BATCH_SIZE, BROKER_PAUSE_S, DispatchLoop


@dataclass(frozen=True)
class Planned:
    dispatches: list[int]
    next_in_s: float | None


@dataclass
class Backlog:
    """Work that a plan hands out, as much as its limit allows."""

    left: int
    published: list[int] = field(default_factory=list)

    def plan(self, *, limit: int) -> Planned:
        size = min(limit, self.left)
        self.left -= size
        return Planned(list(range(size)), 2.5)

    def publish(self, dispatches: Sequence[int]) -> None:
        self.published += dispatches


def test_the_loop_publishes_until_a_plan_starts_less_than_a_batch() -> None:
    backlog = Backlog(2 * BATCH_SIZE + 7)
    assert DispatchLoop(backlog.plan, backlog.publish).dispatch() == 2.5
    assert len(backlog.published) == 2 * BATCH_SIZE + 7


def test_a_plan_that_starts_nothing_publishes_nothing() -> None:
    def publish(dispatches: Sequence[int]) -> None:
        raise AssertionError(dispatches)

    assert DispatchLoop(Backlog(0).plan, publish).dispatch() == 2.5


def test_a_broker_outage_ends_the_loop_until_the_next_call() -> None:
    backlog = Backlog(2 * BATCH_SIZE)

    def publish(dispatches: Sequence[int]) -> None:
        raise OperationalError("the broker is down")

    assert DispatchLoop(backlog.plan, publish).dispatch() == BROKER_PAUSE_S
    assert backlog.left == BATCH_SIZE
