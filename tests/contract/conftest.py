"""The simulator that the tests of one file share."""

from collections.abc import Iterator

import pytest
from httpx import Client

from tests.contract.simulated import simulator


@pytest.fixture(scope="module")
def sim() -> Iterator[Client]:
    with simulator() as client:
        yield client
