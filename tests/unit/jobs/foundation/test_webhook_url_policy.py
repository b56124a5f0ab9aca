"""The addresses to which webhooks may be sent."""

import pytest
from pydantic import ValidationError

from jobs.foundation.settings import Settings
from jobs.foundation.webhook_url_policy import check_webhook_url
from tests.support.hostile_urls import HOSTILE


@pytest.mark.parametrize("url", HOSTILE)
def test_a_hostile_url_is_refused_before_anything_is_resolved(url: str) -> None:
    with pytest.raises(ValueError, match=r"it|port 0"):
        check_webhook_url(url, Settings())


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/",
        "http://example.com/",
        "https://example.com:8000/x?y",
        "https://example.com:9999",
        "https://8.8.8.8/",
    ],
)
def test_a_public_url_is_valid(url: str) -> None:
    check_webhook_url(url, Settings())


def test_the_operator_may_allow_ports_and_private_networks() -> None:
    check_webhook_url("https://example.com:7000/", Settings(webhook_ports="443,7000-7001"))
    with pytest.raises(ValueError, match="port"):
        check_webhook_url("https://example.com:8000/", Settings(webhook_ports="443,7000-7001"))
    loopback = Settings(allow_private_addresses="127.0.0.0/8")
    check_webhook_url("http://127.0.0.1:45123/", loopback)
    check_webhook_url("http://localhost:45123/", loopback)
    with pytest.raises(ValueError, match="port"):
        check_webhook_url("http://example.com:45123/", loopback)
    with pytest.raises(ValueError, match="private"):
        check_webhook_url("http://10.0.0.1/", loopback)


@pytest.mark.parametrize("text", ["x", "70000", "0", "9-8", "80,,a"])
def test_invalid_ports_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Settings(webhook_ports=text)
