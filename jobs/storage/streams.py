"""Objects of any size in bounded memory: read in pieces, written in parts."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from jobs.foundation.errors import Unavailable
from jobs.storage.bucket import Bucket
from jobs.storage.errors import border, unavailable

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

PIECE = 256 * 1024
PART = 8 * 1024 * 1024
"""Bytes of a part; a store takes 10,000 of them, the last one alone under 5 MiB
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html)."""


def read_pieces(bucket: Bucket, name: str, key: str, *, piece: int = PIECE) -> Iterator[bytes]:
    """An object's bytes, from the first on.

    Raises:
        NotFound: there is no such object.
        Unavailable: the store does not answer, or not whole.
    """
    with border(unavailable):
        answer = bucket.client.get_object(Bucket=name, Key=key)
        size, seen = answer["ContentLength"], 0
        with answer["Body"] as body:
            while data := body.read(piece):
                seen += len(data)
                yield data
    if seen != size:
        raise Unavailable(f"s3://{name}/{key} ended after {seen:,} of {size:,} bytes")


def put_pieces(bucket: Bucket, name: str, key: str, pieces: Iterable[bytes], *, media_type: str) -> int:
    """Put an object from its pieces, over one that is there; it appears whole or not at all.

    Returns:
        Its size in bytes.

    Raises:
        Unavailable: the store does not take it.
    """
    parts = _parts(pieces)
    first = next(parts, b"")
    second = next(parts, None)
    if second is None:
        bucket.put(name, key, first, media_type=media_type)
        return len(first)
    with border(unavailable):
        upload = bucket.client.create_multipart_upload(Bucket=name, Key=key, ContentType=media_type)["UploadId"]
    try:
        done: list[CompletedPartTypeDef] = []
        size = 0
        for data in _chain(first, second, parts):
            number = len(done) + 1
            with border(unavailable):
                answer = bucket.client.upload_part(Bucket=name, Key=key, UploadId=upload, PartNumber=number, Body=data)
            done.append({"ETag": answer["ETag"], "PartNumber": number})
            size += len(data)
        with border(unavailable):
            bucket.client.complete_multipart_upload(
                Bucket=name, Key=key, UploadId=upload, MultipartUpload={"Parts": done}
            )
    except BaseException:
        with border(unavailable):
            bucket.client.abort_multipart_upload(Bucket=name, Key=key, UploadId=upload)
        raise
    return size


def _parts(pieces: Iterable[bytes]) -> Iterator[bytes]:
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) >= PART:
            yield bytes(held[:PART])
            del held[:PART]
    if held:
        yield bytes(held)


def _chain(first: bytes, second: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield second
    yield from rest
