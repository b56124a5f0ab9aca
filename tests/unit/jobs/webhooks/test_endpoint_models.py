"""The rules for an endpoint's own headers."""

import pytest

from jobs.foundation.errors import InvalidInput
from jobs.webhooks.endpoint_models import check_headers


@pytest.mark.parametrize(
    "headers",
    [
        {"webhook-id": "x"},
        {"Webhook-Signature": "x"},
        {"Host": "x"},
        {"content-length": "1"},
        {"Transfer-Encoding": "chunked"},
        {"bad name": "x"},
        {"x": "a\r\nb: c"},
        {"x": ""},
        {"x": " a"},
        {"x": "\u00e9"},
        {f"x-{n}": "1" for n in range(17)},
    ],
)
def test_reserved_and_invalid_headers_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        check_headers(headers)


def test_a_header_with_a_token_is_valid() -> None:
    check_headers({"Authorization": "Bearer abc", "X-Shop": "a b"})
