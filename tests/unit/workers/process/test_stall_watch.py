"""A stalled worker is distinguished from an idle or busy one, and from one whose broker does not answer."""

from typing import NamedTuple

import pytest

from workers.process.stall_watch import Observation, StallWatch, Verdict

WELL, RESTART, LEAVE = Verdict


class Step(NamedTuple):
    """An observation and the expected verdict."""

    at_s: float
    taken: int
    free: int
    backlog: int | None
    expected: Verdict = WELL


CASES = {
    "idle": [Step(at, 5, 8, 0) for at in range(0, 100, 10)],
    "busy": [Step(at, 5, 0, 50) for at in range(0, 100, 10)],
    "working": [Step(at, at, 3, 50) for at in range(0, 100, 3)],
    "the broker does not answer": [Step(at, 5, 8, None) for at in range(0, 100, 10)],
    "a lost message is in no queue": [Step(0, 5, 8, 0), Step(1, 5, 8, 1), Step(2, 5, 8, 0), Step(40, 5, 8, 0)],
    "stalled": [
        Step(0, 5, 8, 3),
        Step(9.9, 5, 8, 3),
        Step(10, 5, 8, 3, RESTART),
        Step(19.9, 5, 8, 4),
        Step(20, 5, 8, 4, LEAVE),
        Step(21, 5, 8, 4, LEAVE),
    ],
    "stalled from its start": [Step(0, 0, 8, 3), Step(10, 0, 8, 3, RESTART), Step(20, 0, 8, 3, LEAVE)],
    "helped by the restart": [
        Step(0, 5, 8, 3),
        Step(10, 5, 8, 3, RESTART),
        Step(11, 6, 8, 2),
        Step(12, 6, 8, 2),
        Step(22, 6, 8, 2, RESTART),
    ],
    "other workers emptied the queue after the restart": [
        Step(0, 5, 8, 3),
        Step(10, 5, 8, 3, RESTART),
        Step(11, 5, 8, 0),
        Step(50, 5, 8, 2),
        Step(60, 5, 8, 2, LEAVE),
    ],
    "an outage of the broker restarts the wait": [
        Step(0, 5, 8, 3),
        Step(9, 5, 8, None),
        Step(12, 5, 8, 3),
        Step(21, 5, 8, 3),
        Step(22, 5, 8, 3, RESTART),
    ],
    "a thread became free late": [
        Step(0, 5, 0, 3),
        Step(30, 5, 1, 3),
        Step(39, 5, 1, 3),
        Step(40, 5, 1, 3, RESTART),
    ],
}


@pytest.mark.parametrize("steps", CASES.values(), ids=CASES.keys())
def test_a_worker_with_free_threads_and_waiting_messages_is_stalled(steps: list[Step]) -> None:
    watch = StallWatch(patience_s=10, taken=steps[0].taken)
    for step in steps:
        watch, verdict = watch.after(Observation(step.at_s, step.taken, step.free, step.backlog))
        assert verdict is step.expected, step
