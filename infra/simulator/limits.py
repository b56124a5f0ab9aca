"""The account's limits: accepted starts in a sliding minute, and calls in flight."""

from __future__ import annotations

from collections import deque

from infra.simulator.form_parsing import Refusal

WINDOW_S = 60.0


class Limiter:
    """The limits of one key for one model. Not thread-safe: use it on the event loop only."""

    def __init__(self) -> None:
        self._starts: deque[float] = deque()
        self._in_flight = 0

    def refusal(self, now: float, *, rpm: int, concurrency: int, retry_after_s: int) -> Refusal | None:
        """The refusal of a call at ``now`` (monotonic seconds) that exceeds a limit, or None; counts nothing.

        The messages are exact copies of StepFun's.
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
                # Until enough starts are older than a minute: more than one if the limit was lowered.
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
        """Count a start and a call in flight; `finish` must follow."""
        self._starts.append(now)
        self._in_flight += 1

    def finish(self) -> None:
        """Stop counting the call as in flight."""
        self._in_flight -= 1
