"""The record of every edit call, for tests and benchmarks to read."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_CALLS = 50_000
WINDOW_S = 60.0


@dataclass(slots=True)
class Call:
    """One edit call.

    Attributes:
        at: time of arrival, seconds since 1970.
        started, finished: monotonic seconds; ``finished`` is None while the call is in flight.
        status: HTTP status of the answer; None without an answer.
        outcome: `answered`, or the fault that replaced the answer.
        accepted: the call passed validation and limits.
        billed: the account pays for the call, whether or not the answer arrived.
        headers: some request headers (`x-*`, `traceparent`, `idempotency-key`, `user-agent`).
    """

    id: str
    trace_id: str
    at: float
    started: float
    headers: dict[str, str]
    finished: float | None = None
    model: str = ""
    prompt: str = ""
    seed: int | None = None
    options: dict[str, object] = field(default_factory=dict)
    image_sha256: str = ""
    image_bytes: int = 0
    status: int | None = None
    outcome: str = "answered"
    accepted: bool = False
    billed: bool = False


class Ledger:
    """The last 50,000 calls; older calls are dropped and counted."""

    def __init__(self) -> None:
        self._calls: deque[Call] = deque(maxlen=MAX_CALLS)
        self._forgotten = 0

    def add(self, call: Call) -> None:
        """Record a call when it arrives."""
        if len(self._calls) == MAX_CALLS:
            self._forgotten += 1
        self._calls.append(call)

    def clear(self) -> None:
        """Delete every call."""
        self._calls.clear()
        self._forgotten = 0

    def select(self, *, prompt: str = "", model: str = "") -> list[Call]:
        """Calls in order of arrival with ``prompt`` in their prompt; of one model if ``model`` is given."""
        return [call for call in self._calls if prompt in call.prompt and model in {"", call.model}]

    def summary(self, calls: list[Call]) -> dict[str, Any]:
        """Counts of calls, and the peaks of calls in flight and of starts in any 60 s."""
        return {
            "calls": len(calls),
            "by_status": Counter(str(call.status or call.outcome) for call in calls),
            "by_outcome": Counter(call.outcome for call in calls),
            "billed": sum(call.billed for call in calls),
            "accepted": sum(call.accepted for call in calls),
            "in_flight": sum(call.finished is None for call in calls),
            "peak_in_flight": _peak_in_flight(calls),
            "peak_starts_60s": _peak_starts(calls),
            "peak_accepted_starts_60s": _peak_starts(call for call in calls if call.accepted),
            "forgotten": self._forgotten,
        }


def call_to_json(call: Call) -> dict[str, Any]:
    """A call in the control plane's JSON format."""
    record = asdict(call)
    finished, started = record.pop("finished"), record.pop("started")
    record["duration_ms"] = None if finished is None else round((finished - started) * 1000, 3)
    return record


def new_call(call_id: str, trace_id: str, headers: dict[str, str]) -> Call:
    """A call that has just arrived."""
    return Call(id=call_id, trace_id=trace_id, at=time.time(), started=time.monotonic(), headers=headers)


def _peak_in_flight(calls: list[Call]) -> int:
    steps = [(call.started, 1) for call in calls]
    steps += [(call.finished, -1) for call in calls if call.finished is not None]
    peak = now = 0
    for _, step in sorted(steps):
        now += step
        peak = max(peak, now)
    return peak


def _peak_starts(calls: Iterable[Call]) -> int:
    window: deque[float] = deque()
    peak = 0
    for started in sorted(call.started for call in calls):
        window.append(started)
        while window[0] <= started - WINDOW_S:
            window.popleft()
        peak = max(peak, len(window))
    return peak
