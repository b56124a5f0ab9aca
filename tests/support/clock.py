"""A clock for tests that set the time themselves."""


class Clock:
    """Milliseconds since 1970; the time changes only when a test changes it."""

    def __init__(self, start_ms: int = 1_800_000_000_000) -> None:
        self.now_ms = start_ms

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)
