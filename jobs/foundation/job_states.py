"""The states of a job and the one table of allowed transitions.

The Lua scripts get this table prepended, so what is refused there is what is refused here.
`docs/state_machine.md` draws it; a test holds the two together.
"""

from enum import StrEnum


class State(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    """On its lane, to be taken by the plan."""
    WAITING = "waiting"
    """Not before a moment: `not_before`, or the back-off of a retry."""
    RUNNING = "running"
    """Taken by the plan: one attempt holds a lease."""
    SUCCEEDED = "succeeded"
    """The output is in the bucket."""
    FILTERED = "filtered"
    """A content refusal; trying again changes nothing."""
    FAILED = "failed"
    """It ended without a result, and the error says why."""
    CANCELED = "canceled"
    """The user stopped it."""


FINAL = frozenset({State.SUCCEEDED, State.FILTERED, State.FAILED, State.CANCELED})
LIVE = frozenset(State) - FINAL

NEW = "new"
"""What a job is before its submit: not a state, the left side of the first transitions."""

TRANSITIONS: dict[tuple[str, State], str] = {
    (NEW, State.QUEUED): "submit",
    (NEW, State.WAITING): "submit with not_before",
    (State.QUEUED, State.RUNNING): "plan",
    (State.QUEUED, State.CANCELED): "cancel",
    (State.QUEUED, State.FAILED): "deadline over",
    (State.WAITING, State.QUEUED): "due",
    (State.WAITING, State.CANCELED): "cancel",
    (State.WAITING, State.FAILED): "deadline over",
    (State.RUNNING, State.SUCCEEDED): "settle",
    (State.RUNNING, State.FILTERED): "settle",
    (State.RUNNING, State.FAILED): "settle, or lease lost too often",
    (State.RUNNING, State.WAITING): "retry",
    (State.RUNNING, State.QUEUED): "lease lost, or handed back",
    (State.RUNNING, State.CANCELED): "cancel",
    (State.FAILED, State.QUEUED): "retry by the user",
    (State.FILTERED, State.QUEUED): "retry by the user",
    (State.CANCELED, State.QUEUED): "retry by the user",
}
"""(from, to) -> what brings it about. Whatever is not here is refused."""


def allowed(source: str, target: State) -> bool:
    """Whether a job may go from `source` (a state, or `NEW`) to `target`."""
    return (source, target) in TRANSITIONS
