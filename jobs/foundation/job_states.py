"""The states of a job and the table of allowed transitions.

The Lua scripts are loaded with this table in front, so Lua and Python refuse the same transitions.
A test compares the diagram in `docs/state_machine.md` with the table.
"""

from enum import StrEnum


class State(StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    """In its lane, until the plan starts it."""
    WAITING = "waiting"
    """Until a time: `not_before`, or the end of the backoff of a retry."""
    RUNNING = "running"
    """Started by the plan: one attempt has a lease."""
    SUCCEEDED = "succeeded"
    """The output is in the bucket."""
    FILTERED = "filtered"
    """The provider refused the content; a retry does not help."""
    FAILED = "failed"
    """It ended without a result; `error` says why."""
    CANCELED = "canceled"
    """A user canceled it."""


FINAL = frozenset({State.SUCCEEDED, State.FILTERED, State.FAILED, State.CANCELED})
LIVE = frozenset(State) - FINAL

NEW = "new"
"""A job before its submit: not a state, only the source of the first transitions."""

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
"""(source, target) -> the cause. All other transitions are refused."""


def allowed(source: str, target: State) -> bool:
    """Whether a job may change from `source` (a state, or `NEW`) to `target`."""
    return (source, target) in TRANSITIONS
