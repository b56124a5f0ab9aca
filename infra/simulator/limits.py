"""The account's limits: accepted starts in a sliding minute, and calls in flight."""

from __future__ import annotations

from collections import deque

from infra.simulator.form_parsing import Refusal

WINDOW_S = 60.0


class Limiter:
    """The limits of one key for one model. Not thread-safe: used from the event loop alone."""

    def __init__(self) -> None:
        self._starts: deque[float] = deque()
        self._in_flight = 0

    def refusal(self, now: float, *, rpm: int, concurrency: int, retry_after_s: int) -> Refusal | None:
        """Say why a call at ``now`` (monotonic seconds) is over a limit, or None; takes nothing.

        The messages are StepFun's, word for word.
        """
        while self._starts and self._starts[0] <= now - WINDOW_S:
            self._starts.popleft()
        if rpm and (current := len(self._starts) + 1) > rpm:
            return Refusal(
                429,
                f"request limited RPM reached, current: {current}, limit: {rpm}",
                reason="rpm",
                current=current,
                limit=rpm,
                # The call that must leave the minute before this one fits, which is not the oldest
                # after the limit was lowered.
                wait_s=self._starts[len(self._starts) - rpm] + WINDOW_S - now,
            )
        if concurrency and (current := self._in_flight + 1) > concurrency:
            return Refusal(
                429,
                f"concurrency reached, current: {current}, limit: {concurrency}",
                reason="concurrency",
                current=current,
                limit=concurrency,
                wait_s=retry_after_s,
            )
        return None

    def start(self, now: float) -> None:
        """Count a start and a call in flight; every start is followed by one `finish`."""
        self._starts.append(now)
        self._in_flight += 1

    def finish(self) -> None:
        """Give the call's place back."""
        self._in_flight -= 1
