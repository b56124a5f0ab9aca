"""What follows from a try of a delivery. Pure; no I/O, no clock, no dice."""

from dataclasses import dataclass

SCHEDULE_S = (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds before each try, counted from the end of the one before: ten tries in a little over three days."""
JITTER = 0.2
"""By how much of itself a pause may become longer, so that what failed together does not come back together."""
LONGEST_OBEYED_S = 86_400.0
MAX_ANSWER_BYTES = 1024
"""Bytes of an answer that are kept."""


@dataclass(frozen=True)
class Exchange:
    """What came of one request to a receiver.

    Attributes:
        took_ms: how long it took.
        status: of the answer; None where none came.
        answer: the first kilobyte of its body.
        error: why no whole answer came.
        retry_after_s: how long the receiver asked to be left alone.
    """

    took_ms: int
    status: int | None = None
    answer: str = ""
    error: str | None = None
    retry_after_s: float | None = None

    @property
    def ok(self) -> bool:
        """Only a whole answer of 2xx is a success."""
        return self.error is None and self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True)
class Verdict:
    """What is to happen now.

    Attributes:
        ok: the receiver has it.
        delay_ms: until the next try; None: there is none.
        rest_ms: how long the receiver shall hear nothing.
        why: it is exhausted.
        gone: the receiver wants nothing any more.
    """

    ok: bool = False
    delay_ms: int | None = None
    rest_ms: int | None = None
    why: str | None = None
    gone: bool = False


def judge(exchange: Exchange, tries: int, jitter: float) -> Verdict:
    """The verdict on a try.

    Args:
        exchange: what came of it.
        tries: tries that were used up before it.
        jitter: a random number, at least 0 and below 1.
    """
    if exchange.ok:
        return Verdict(ok=True)
    if exchange.status == 410:
        return Verdict(why="the receiver answered 410: it wants nothing any more", gone=True)
    asked_s = 0.0
    if exchange.status in {429, 503} and exchange.retry_after_s:
        asked_s = min(exchange.retry_after_s, LONGEST_OBEYED_S)
    rest_ms = int(asked_s * 1000) or None
    if tries + 1 >= len(SCHEDULE_S):
        return Verdict(rest_ms=rest_ms, why=f"{tries + 1} tries have failed")
    pause_s = SCHEDULE_S[tries + 1] * (1 + JITTER * jitter)
    return Verdict(delay_ms=int(1000 * max(pause_s, asked_s)), rest_ms=rest_ms)
