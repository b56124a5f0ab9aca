"""A worker that takes nothing is told from one that has nothing to take, has no thread for it, or cannot know."""

from typing import NamedTuple

import pytest

from workers.process.stall_watch import Observation, StallWatch, Verdict

WELL, RESTART, LEAVE = Verdict


class Seen(NamedTuple):
    """A look, and what is to follow from it."""

    at_s: float
    taken: int
    free: int
    backlog: int | None
    then: Verdict = WELL


CASES = {
    "idle": [Seen(at, 5, 8, 0) for at in range(0, 100, 10)],
    "busy": [Seen(at, 5, 0, 50) for at in range(0, 100, 10)],
    "working": [Seen(at, at, 3, 50) for at in range(0, 100, 3)],
    "the broker does not say": [Seen(at, 5, 8, None) for at in range(0, 100, 10)],
    "a message that was lost lies nowhere": [Seen(0, 5, 8, 0), Seen(1, 5, 8, 1), Seen(2, 5, 8, 0), Seen(40, 5, 8, 0)],
    "stalled": [
        Seen(0, 5, 8, 3),
        Seen(9.9, 5, 8, 3),
        Seen(10, 5, 8, 3, RESTART),
        Seen(19.9, 5, 8, 4),
        Seen(20, 5, 8, 4, LEAVE),
        Seen(21, 5, 8, 4, LEAVE),
    ],
    "stalled from its start": [Seen(0, 0, 8, 3), Seen(10, 0, 8, 3, RESTART), Seen(20, 0, 8, 3, LEAVE)],
    "helped by the restart": [
        Seen(0, 5, 8, 3),
        Seen(10, 5, 8, 3, RESTART),
        Seen(11, 6, 8, 2),
        Seen(12, 6, 8, 2),
        Seen(22, 6, 8, 2, RESTART),
    ],
    "others took it all after the restart, and it still takes none": [
        Seen(0, 5, 8, 3),
        Seen(10, 5, 8, 3, RESTART),
        Seen(11, 5, 8, 0),
        Seen(50, 5, 8, 2),
        Seen(60, 5, 8, 2, LEAVE),
    ],
    "an outage of the broker starts the count anew": [
        Seen(0, 5, 8, 3),
        Seen(9, 5, 8, None),
        Seen(12, 5, 8, 3),
        Seen(21, 5, 8, 3),
        Seen(22, 5, 8, 3, RESTART),
    ],
    "its last thread came free late": [
        Seen(0, 5, 0, 3),
        Seen(30, 5, 1, 3),
        Seen(39, 5, 1, 3),
        Seen(40, 5, 1, 3, RESTART),
    ],
}


@pytest.mark.parametrize("seen", CASES.values(), ids=CASES.keys())
def test_only_a_worker_that_leaves_messages_lying_beside_a_free_thread_is_stalled(seen: list[Seen]) -> None:
    watch = StallWatch(patience_s=10, taken=seen[0].taken)
    for one in seen:
        watch, verdict = watch.after(Observation(one.at_s, one.taken, one.free, one.backlog))
        assert verdict is one.then, one
