"""The bucket, against a real SeaweedFS."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from itertools import count

import httpx
import pytest

from jobs.foundation.errors import (
    ConfigurationError,
    InputRejected,
    InputUnavailable,
    NotFound,
    StorageFailed,
    Unavailable,
)
from jobs.foundation.settings import Settings
from jobs.storage.bucket import Bucket
from jobs.storage.objects import ATTEMPT, JOB
from tests.support.loopback import answer, serve

_prefixes = count(1)
PICTURE = bytes(range(256)) * 2000


@pytest.fixture
def bucket(settings: Settings) -> Iterator[Bucket]:
    opened = Bucket(settings)
    yield opened
    opened.close()


@pytest.fixture
def prefix() -> str:
    return f"test-bucket/{next(_prefixes)}/"


def fenced(bucket: Bucket, key: str, data: bytes, *, job: str = "job_1", attempt: int) -> bool:
    return bucket.put_fenced(
        bucket.name, key, data, media_type="image/png", metadata={"model": "m"}, job_id=job, attempt=attempt
    )


def test_an_object_keeps_its_bytes_type_and_metadata(bucket: Bucket, prefix: str) -> None:
    key = f"{prefix}ä b/Größe+1.png"
    bucket.put(bucket.name, key, PICTURE, media_type="image/png", metadata={"model": "schön 100%", "seed": "7"})
    assert bucket.get(bucket.name, key, max_bytes=len(PICTURE)) == PICTURE
    found = bucket.head(bucket.name, key)
    assert found is not None
    assert (found.size, found.media_type) == (len(PICTURE), "image/png")
    assert found.metadata == {"model": "sch%C3%B6n 100%25", "seed": "7"}


def test_an_empty_object_can_be_stored(bucket: Bucket, prefix: str) -> None:
    bucket.put(bucket.name, f"{prefix}e", b"", media_type="text/plain")
    assert bucket.get(bucket.name, f"{prefix}e", max_bytes=0) == b""


def test_the_store_checks_the_sha256_of_a_put(bucket: Bucket, prefix: str) -> None:
    digest = hashlib.sha256(PICTURE).hexdigest()
    bucket.put(bucket.name, f"{prefix}a", PICTURE, media_type="image/png", sha256=digest)
    with pytest.raises(Unavailable, match="BadDigest"):
        bucket.put(bucket.name, f"{prefix}b", PICTURE + b"x", media_type="image/png", sha256=digest)
    assert bucket.head(bucket.name, f"{prefix}b") is None


def test_missing_and_too_large_objects_and_unknown_buckets_are_refused(bucket: Bucket, prefix: str) -> None:
    bucket.put(bucket.name, f"{prefix}a", PICTURE, media_type="image/png")
    with pytest.raises(InputRejected, match="at most"):
        bucket.get(bucket.name, f"{prefix}a", max_bytes=len(PICTURE) - 1)
    with pytest.raises(InputRejected, match="no object"):
        bucket.get(bucket.name, f"{prefix}none", max_bytes=1)
    with pytest.raises(InputUnavailable, match="no such bucket"):
        bucket.get("another-bucket", "a", max_bytes=1)
    assert bucket.head(bucket.name, f"{prefix}none") is None


def test_objects_are_copied_listed_in_pages_and_deleted(bucket: Bucket, prefix: str) -> None:
    keys = [f"{prefix}{number}" for number in range(5)]
    bucket.put(bucket.name, keys[0], b"0", media_type="image/webp", metadata={"a": "b"})
    for key in keys[1:]:
        bucket.copy(bucket.name, keys[0], bucket.name, key)
    assert list(bucket.list_keys(bucket.name, prefix, page=2)) == keys
    assert list(bucket.list_keys(bucket.name, prefix, start_after=keys[2], page=1)) == keys[3:]
    copied = bucket.head(bucket.name, keys[4])
    assert copied is not None
    assert (copied.media_type, copied.metadata) == ("image/webp", {"a": "b"})
    for key in keys:
        bucket.delete(bucket.name, key)
        bucket.delete(bucket.name, key)
    assert list(bucket.list_keys(bucket.name, prefix)) == []
    with pytest.raises(NotFound):
        bucket.copy(bucket.name, keys[0], bucket.name, keys[1])


def test_presigned_urls_need_no_key_and_bind_the_media_type(bucket: Bucket, prefix: str) -> None:
    key = f"{prefix}up load.png"
    put = bucket.presign_put(bucket.name, key, media_type="image/png", expires_s=60)
    assert httpx.put(put, content=PICTURE, headers={"content-type": "text/html"}).status_code == 403
    assert httpx.put(put, content=PICTURE, headers={"content-type": "image/png"}).status_code == 200
    got = httpx.get(bucket.presign_get(bucket.name, key, expires_s=60))
    assert (got.status_code, got.content, got.headers["content-type"]) == (200, PICTURE, "image/png")
    other = bucket.presign_get(bucket.name, key, expires_s=60).replace("up%20load", "other")
    assert httpx.get(other).status_code == 403


def test_presigned_urls_have_the_public_address(make_settings: Callable[..., Settings]) -> None:
    bucket = Bucket(make_settings(s3_public_endpoint_url="https://pictures.example"))
    assert bucket.presign_get("ours", "a.png").startswith("https://pictures.example/ours/a.png?")


def test_a_later_attempt_replaces_an_earlier_ones_output(bucket: Bucket, prefix: str) -> None:
    key = f"{prefix}out"
    assert fenced(bucket, key, b"one", attempt=1)
    assert fenced(bucket, key, b"two", attempt=2)
    assert fenced(bucket, key, b"two again", attempt=2)
    found = bucket.head(bucket.name, key)
    assert found is not None
    assert found.metadata == {"model": "m", JOB: "job_1", ATTEMPT: "2"}
    assert bucket.get(bucket.name, key, max_bytes=99) == b"two again"


def test_a_late_attempt_does_not_replace_an_output(bucket: Bucket, prefix: str) -> None:
    key = f"{prefix}out"
    assert fenced(bucket, key, b"ten", attempt=10)
    assert not fenced(bucket, key, b"nine", attempt=9)
    assert bucket.get(bucket.name, key, max_bytes=99) == b"ten"


def test_an_output_replaces_an_object_of_another_job(bucket: Bucket, prefix: str) -> None:
    key = f"{prefix}out"
    bucket.put(bucket.name, key, b"a stranger's", media_type="image/png")
    assert fenced(bucket, key, b"ours", job="job_a", attempt=1)
    assert fenced(bucket, key, b"another job's", job="job_b", attempt=1)
    assert bucket.get(bucket.name, key, max_bytes=99) == b"another job's"


def test_the_latest_of_concurrent_attempts_wins(bucket: Bucket, prefix: str) -> None:
    key = f"{prefix}out"
    attempts = range(1, 5)
    start = threading.Barrier(len(attempts))
    put: dict[int, bool] = {}

    def write(attempt: int) -> None:
        start.wait()
        put[attempt] = fenced(bucket, key, str(attempt).encode() * 1000, attempt=attempt)

    threads = [threading.Thread(target=write, args=(attempt,)) for attempt in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert put[max(attempts)]
    assert bucket.get(bucket.name, key, max_bytes=9999) == b"4" * 1000


def test_a_store_without_conditional_writes_gets_a_plain_put(make_settings: Callable[..., Settings]) -> None:
    stored: dict[str, bytes] = {}

    def store(connection, request) -> None:
        if request.method == "PUT":
            if "if-none-match" in request.headers or "if-match" in request.headers:
                connection.sendall(answer(501, b"<Error><Code>NotImplemented</Code></Error>"))
                return
            stored[request.path] = request.headers["x-amz-meta-attempt"].encode()
            connection.sendall(answer(200, etag='"x"'))
        elif request.path in stored:
            attempt = stored[request.path].decode()
            connection.sendall(answer(200, etag='"x"', x_amz_meta_job_id="job_1", x_amz_meta_attempt=attempt))
        else:
            connection.sendall(answer(404))

    with serve(store) as server:
        bucket = Bucket(make_settings(s3_endpoint_url=server.url))
        assert fenced(bucket, "out", b"two", attempt=2)
        assert not fenced(bucket, "out", b"one", attempt=1)
        assert fenced(bucket, "out", b"three", attempt=3)
        assert stored == {"/retouch/out": b"3"}


def test_an_unreachable_store_is_reported(make_settings: Callable[..., Settings]) -> None:
    with serve(b"") as server:
        port = server.port
    bucket = Bucket(make_settings(s3_endpoint_url=f"http://127.0.0.1:{port}"), connect_timeout_s=2)
    with pytest.raises(Unavailable, match="cannot be reached"):
        bucket.check()
    with pytest.raises(Unavailable):
        bucket.put("ours", "a", b"", media_type="image/png")
    with pytest.raises(Unavailable):
        bucket.head("ours", "a")
    with pytest.raises(Unavailable):
        list(bucket.list_keys("ours", "a"))
    with pytest.raises(InputUnavailable):
        bucket.get("ours", "a", max_bytes=1)
    with pytest.raises(StorageFailed):
        fenced(bucket, "a", b"", attempt=1)


@pytest.mark.parametrize(
    "broken",
    [
        answer(500, b"<Error><Code>InternalError</Code></Error>"),
        answer(503, b"no xml"),
        answer(200, b"short", content_length="100"),
        b"no http at all\r\n\r\n",
    ],
    ids=["500", "503", "truncated", "not HTTP"],
)
def test_a_broken_response_is_unavailable_and_not_retried(
    make_settings: Callable[..., Settings], broken: bytes
) -> None:
    def send_broken(connection, request) -> None:
        connection.sendall(broken)
        connection.close()

    with serve(send_broken) as server:
        bucket = Bucket(make_settings(s3_endpoint_url=server.url))
        with pytest.raises(InputUnavailable):
            bucket.get("ours", "a", max_bytes=1000)
        assert len(server.requests) == 1


def test_the_readiness_check_names_the_fault(
    bucket: Bucket, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.check()
    with pytest.raises(Unavailable, match="no bucket 'nowhere'"):
        Bucket(make_settings(s3_bucket="nowhere")).check()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(Unavailable, match="403"):
        Bucket(make_settings()).check()


def test_an_invalid_endpoint_url_is_a_configuration_error(make_settings: Callable[..., Settings]) -> None:
    with pytest.raises(ConfigurationError, match="RETOUCH_S3_ENDPOINT_URL"):
        Bucket(make_settings(s3_endpoint_url="not a url"))
