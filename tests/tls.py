"""One TLS context for tests that open many plain HTTP clients, because loading the authorities takes 60 ms."""

import functools
import ssl
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_tls_context() -> Iterator[None]:
    """Let all clients share what `ssl.create_default_context` makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.lru_cache(ssl.create_default_context))
        yield
