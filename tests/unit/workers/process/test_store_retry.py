"""Repeating a step while the store is down."""

import pytest
from redis.exceptions import RedisError

from workers.process.store_retry import STORE_PAUSE_S, retry_while_store_down


class Store:
    """A store that refuses its first calls."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.pauses: list[float] = []

    def step(self) -> str:
        if len(self.pauses) < self.failures:
            raise RedisError("the store is down")
        return "written"


def test_a_step_is_repeated_until_the_store_answers() -> None:
    store = Store(failures=3)
    assert retry_while_store_down(store.step, pause=store.pauses.append, give_up=lambda: False) == "written"
    assert store.pauses == [STORE_PAUSE_S] * 3


def test_a_caller_that_gives_up_receives_the_stores_error() -> None:
    store = Store(failures=3)
    with pytest.raises(RedisError, match="the store is down"):
        retry_while_store_down(store.step, pause=store.pauses.append, give_up=lambda: len(store.pauses) == 2)
    assert store.pauses == [STORE_PAUSE_S] * 2


def test_other_errors_are_not_repeated() -> None:
    def step() -> None:
        raise ValueError("not the store's")

    with pytest.raises(ValueError, match="not the store's"):
        retry_while_store_down(step, pause=lambda _: None, give_up=lambda: False)
