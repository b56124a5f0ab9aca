"""The simulator that the tests of one file share."""

from collections.abc import Iterator

import pytest
from httpx import Client

from tests.support.simulator_calls import simulator
from tests.tls import one_tls_context

__all__ = ["one_tls_context", "sim"]


@pytest.fixture(scope="module")
def sim() -> Iterator[Client]:
    with simulator() as client:
        yield client
