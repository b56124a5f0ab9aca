"""Waiting for a state that another thread or process causes."""

import time
from collections.abc import Callable
from typing import Any


def eventually(condition: Callable[[], Any], *, within_s: float = 120, what: str = "") -> Any:
    """Call `condition` until it returns a true value, and return that value; fail the test after `within_s` seconds.

    The limit only ends a test that fails. It is long, because a busy machine starts a process slowly.
    `what` names the awaited state in the failure message.
    """
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what or condition}"
        time.sleep(0.02)
    return value
