"""Pictures fetched for users, from the web and from a real bucket."""

import importlib.util
import socket
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from jobs.catalogue.catalogue import load_catalogue
from jobs.foundation.errors import EditFailure, InputRejected, InputUnavailable, Interrupted
from jobs.foundation.settings import Settings
from jobs.storage.bucket import Bucket
from jobs.storage.object_keys import input_key
from tests.support.loopback import Request, answer, reset, serve
from workers.edits.fetch_input import Fetched, InputFetcher
from workers.net.http import Http

_SPEC = importlib.util.find_spec("skimage")
assert _SPEC is not None
assert _SPEC.submodule_search_locations
PHOTOGRAPH = (Path(_SPEC.submodule_search_locations[0]) / "data" / "rocket.jpg").read_bytes()
MODEL = load_catalogue().get(None)
Fetch = Callable[..., Fetched]


@pytest.fixture
def bucket(settings: Settings) -> Iterator[Bucket]:
    opened = Bucket(settings)
    yield opened
    opened.close()


@pytest.fixture
def fetch(settings: Settings, bucket: Bucket) -> Iterator[Fetch]:
    http = Http(settings.private_networks)
    fetcher = InputFetcher(http, bucket, settings)
    yield lambda image, model=MODEL, **options: fetcher.fetch(image, model, "acme", **options)
    http.close()


def test_a_photograph_is_fetched_from_the_web(fetch: Fetch) -> None:
    with serve(answer(200, PHOTOGRAPH, content_type="text/html")) as server:
        found = fetch(f"{server.url}/rocket")
    assert found.data == PHOTOGRAPH
    assert found.sha256 == sha256(PHOTOGRAPH).hexdigest()
    assert (found.picture.media_type, found.picture.width, found.picture.height) == ("image/jpeg", 640, 427)


def test_a_photograph_is_fetched_from_the_bucket(fetch: Fetch, bucket: Bucket) -> None:
    key = input_key("acme", "job_fetch", "image/jpeg")
    bucket.put(bucket.name, key, PHOTOGRAPH, media_type="image/jpeg")
    assert fetch(f"s3://{bucket.name}/{key}").data == PHOTOGRAPH


@pytest.mark.parametrize(
    ("image", "word"),
    [
        ("s3://another/a.png", "not allowed"),
        ("s3://retouch/retouch/globex/inputs/a.png", "another tenant"),
        ("s3://retouch/retouch/acme/../globex/inputs/a.png", "'..'"),
        ("s3://retouch/nothing-here.png", "no object"),
        ("s3://retouch", "s3://bucket/key"),
        ("ftp://example.com/a.png", "scheme"),
        ("data:image/png;base64,AAAA", "scheme"),
        ("https://169.254.169.254/latest/meta-data/", "private"),
        ("https://10.0.0.1/a.png", "private"),
        ("https://user:secret@example.com/a.png", "user name"),
        ("http://8.8.8.8/a.png", "scheme"),
        ("nonsense", "scheme"),
        ("https://exa mple/", "URL|white space"),
        ("https://\ud800/", "URL"),
    ],
)
def test_an_address_that_may_not_be_fetched_is_rejected(fetch: Fetch, image: str, word: str) -> None:
    with pytest.raises(InputRejected, match=word):
        fetch(image)


@pytest.mark.parametrize(
    ("status", "kind", "wait"),
    [(status, InputRejected, None) for status in (204, 206, 301, 304, 400, 401, 403, 404, 410, 451)]
    + [(status, InputUnavailable, 9) for status in (408, 425, 429, 500, 502, 503, 504)],
)
def test_each_status_of_a_server_is_final_or_retryable(
    fetch: Fetch, status: int, kind: type[EditFailure], wait: int
) -> None:
    with serve(answer(status, b"", retry_after="9")) as server, pytest.raises(kind, match=str(status)) as caught:
        fetch(server.url)
    assert type(caught.value) is kind
    assert getattr(caught.value, "retry_after_s", None) == wait


def _break_off(connection: socket.socket, request: Request) -> None:
    connection.sendall(answer(200, PHOTOGRAPH[:100], content_length=str(len(PHOTOGRAPH))))
    connection.close()


@pytest.mark.parametrize(
    "script",
    [_break_off, lambda connection, _request: reset(connection), lambda _connection, _request: None],
    ids=["truncated", "reset", "hang"],
)
def test_a_server_that_does_not_deliver_is_asked_again_later(fetch: Fetch, script: Callable[..., None]) -> None:
    with serve(script) as server, pytest.raises(InputUnavailable):
        fetch(server.url, deadline_s=0.4)


def test_a_server_that_is_not_there_is_asked_again_later(fetch: Fetch) -> None:
    with serve(b"") as server:
        url = server.url
    with pytest.raises(InputUnavailable):
        fetch(url)
    with pytest.raises(InputUnavailable, match="cannot be resolved"):
        fetch("https://no-such-name.invalid/a.png")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (PHOTOGRAPH[:-100], "truncated"),
        (b"<html>", "unknown format"),
        (b"", "empty"),
        (b"GIF89a" + bytes(50), "GIF"),
    ],
)
def test_an_incomplete_or_invalid_picture_is_rejected(fetch: Fetch, body: bytes, word: str) -> None:
    with serve(answer(200, body)) as server, pytest.raises(InputRejected, match=word):
        fetch(server.url)


@pytest.mark.parametrize(
    ("rule", "word"),
    [
        ({"max_image_bytes": 1000}, "too large"),
        ({"max_width": 639}, "639"),
        ({"max_width": 100, "max_height": 100}, "pixels"),
        ({"min_side": 428}, "no side under 428"),
        ({"media_types": ("image/png",)}, "accepts image/png"),
        ({"max_ratio": 1.2}, "1.2 times"),
    ],
)
def test_a_picture_that_the_model_does_not_take_is_rejected(fetch: Fetch, rule: dict[str, object], word: str) -> None:
    with serve(answer(200, PHOTOGRAPH)) as server, pytest.raises(InputRejected, match=word):
        fetch(server.url, MODEL.model_copy(update=rule))


def test_no_upload_limit_is_passed_by_fetching(make_settings: Callable[..., Settings], bucket: Bucket) -> None:
    settings = make_settings(max_upload_bytes=1000)
    bucket.put(bucket.name, "pictures/rocket.jpg", PHOTOGRAPH, media_type="image/jpeg")
    fetcher = InputFetcher(Http(settings.private_networks), bucket, settings)
    with serve(answer(200, PHOTOGRAPH)) as server:
        for image in (server.url, "s3://retouch/pictures/rocket.jpg"):
            with pytest.raises(InputRejected, match="1,000"):
                fetcher.fetch(image, MODEL, "acme")


def test_a_fetch_is_given_up_when_the_worker_stops(fetch: Fetch) -> None:
    with serve(answer(200, PHOTOGRAPH)) as server, pytest.raises(Interrupted):
        fetch(server.url, stop=lambda: True)


def test_a_redirect_is_followed_without_anything_of_ours_but_the_request(fetch: Fetch) -> None:
    with serve(answer(200, PHOTOGRAPH)) as there, serve(answer(307, location=f"{there.url}/p")) as here:
        assert fetch(here.url).data == PHOTOGRAPH
        assert set(there.requests[0].headers) == {"host", "accept", "accept-encoding", "connection", "user-agent"}
