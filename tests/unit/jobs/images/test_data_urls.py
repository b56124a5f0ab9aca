"""Pictures inside `data:` URLs."""

import base64

import pytest

from jobs.images.data_urls import decode_data_url


@pytest.mark.parametrize("size", [1, 2, 3, 4, 1000])
def test_the_bytes_are_decoded(size: int) -> None:
    data = bytes(range(256)) * 4
    url = "data:image/png;base64," + base64.b64encode(data[:size]).decode()
    assert decode_data_url(url, size) == data[:size]


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("", "not a data: URL"),
        ("https://example.com/", "not a data: URL"),
        ("data:image/png;base64", "not a data: URL"),
        ("data:" + "a" * 300 + ";base64,AAAA", "not a data: URL"),
        ("data:image/png,abc", "must be base64"),
        ("data:image/png;base64,", "no bytes"),
        ("data:image/png;base64,AAA", "invalid"),
        ("data:image/png;base64,AA AA", "invalid"),
        ("data:image/png;base64,AAAA\n", "invalid"),
        ("data:image/png;base64,AA-_", "invalid"),
        ("data:image/png;base64,AA==AAAA", "invalid"),
        ("data:image/png;base64,ÄÖÜA", "invalid"),
        ("data:image/png;base64," + "A" * 2000, "more than 1,000 bytes"),
    ],
)
def test_invalid_data_urls_are_refused(url: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        decode_data_url(url, 1000)
