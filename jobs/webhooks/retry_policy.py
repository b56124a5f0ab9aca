"""Decides the next step after an attempt of a delivery. Pure: no I/O, no clock, no random numbers."""

from dataclasses import dataclass

SCHEDULE_S = (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds before each attempt, counted from the end of the previous one: ten attempts in a little over three days."""
JITTER = 0.2
"""Largest share by which a pause is lengthened, so that deliveries that failed together do not retry together."""
MAX_RETRY_AFTER_S = 86_400.0
"""Longest `Retry-After` that is obeyed, in seconds."""
MAX_ANSWER_BYTES = 1024
"""Bytes of an answer that are stored."""


@dataclass(frozen=True)
class Exchange:
    """The result of one request to a receiver.

    Attributes:
        took_ms: duration in milliseconds.
        status: the answer's status; None without an answer.
        answer: the first kilobyte of the answer's body.
        error: why there is no complete answer.
        retry_after_s: the answer's `Retry-After`, in seconds.
    """

    took_ms: int
    status: int | None = None
    answer: str = ""
    error: str | None = None
    retry_after_s: float | None = None

    @property
    def ok(self) -> bool:
        """Whether a complete answer of 2xx has come."""
        return self.error is None and self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True)
class Verdict:
    """The next step after an attempt.

    Attributes:
        ok: the delivery has succeeded.
        delay_ms: milliseconds until the next attempt; None: no further attempt.
        rest_ms: milliseconds during which the receiver gets no request.
        why: the reason why the delivery is exhausted.
        gone: the receiver refuses all further deliveries.
    """

    ok: bool = False
    delay_ms: int | None = None
    rest_ms: int | None = None
    why: str | None = None
    gone: bool = False


def judge(exchange: Exchange, tries: int, jitter: float) -> Verdict:
    """The verdict on an attempt.

    Args:
        exchange: the attempt's result.
        tries: number of failed attempts before this one.
        jitter: a random number, at least 0 and below 1.
    """
    if exchange.ok:
        return Verdict(ok=True)
    if exchange.status == 410:
        return Verdict(why="the receiver answered 410: it refuses all further deliveries", gone=True)
    retry_after_s = 0.0
    if exchange.status in {429, 503} and exchange.retry_after_s:
        retry_after_s = min(exchange.retry_after_s, MAX_RETRY_AFTER_S)
    rest_ms = int(retry_after_s * 1000) or None
    if tries + 1 >= len(SCHEDULE_S):
        return Verdict(rest_ms=rest_ms, why=f"{tries + 1} tries have failed")
    pause_s = SCHEDULE_S[tries + 1] * (1 + JITTER * jitter)
    return Verdict(delay_ms=int(1000 * max(pause_s, retry_after_s)), rest_ms=rest_ms)
