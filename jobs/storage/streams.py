"""Read and write objects of any size in bounded memory: read in pieces, write in parts."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from jobs.foundation.errors import Unavailable
from jobs.storage.bucket import Bucket
from jobs.storage.errors import border, unavailable

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

PIECE = 256 * 1024
PART = 8 * 1024 * 1024
"""Size of a part in bytes. A store allows 10,000 parts; only the last one may have less than 5 MiB
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html)."""


def read_pieces(bucket: Bucket, name: str, key: str, *, piece: int = PIECE) -> Iterator[bytes]:
    """Read an object's bytes in pieces.

    Raises:
        NotFound: the object does not exist.
        Unavailable: the store sends no answer or an incomplete one.
    """
    with border(unavailable):
        answer = bucket.client.get_object(Bucket=name, Key=key)
        size, received = answer["ContentLength"], 0
        with answer["Body"] as body:
            while data := body.read(piece):
                received += len(data)
                yield data
    if received != size:
        raise Unavailable(f"s3://{name}/{key} ended after {received:,} of {size:,} bytes")


def put_pieces(bucket: Bucket, name: str, key: str, pieces: Iterable[bytes], *, media_type: str) -> int:
    """Put an object from its pieces. It replaces the present object only when it is complete.

    Returns:
        Its size in bytes.

    Raises:
        Unavailable: the store does not answer or does not store it.
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
        completed: list[CompletedPartTypeDef] = []
        size = 0
        for data in _chain(first, second, parts):
            number = len(completed) + 1
            with border(unavailable):
                answer = bucket.client.upload_part(Bucket=name, Key=key, UploadId=upload, PartNumber=number, Body=data)
            completed.append({"ETag": answer["ETag"], "PartNumber": number})
            size += len(data)
        with border(unavailable):
            bucket.client.complete_multipart_upload(
                Bucket=name, Key=key, UploadId=upload, MultipartUpload={"Parts": completed}
            )
    except BaseException:
        with border(unavailable):
            bucket.client.abort_multipart_upload(Bucket=name, Key=key, UploadId=upload)
        raise
    return size


def _parts(pieces: Iterable[bytes]) -> Iterator[bytes]:
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        while len(buffer) >= PART:
            yield bytes(buffer[:PART])
            del buffer[:PART]
    if buffer:
        yield bytes(buffer)


def _chain(first: bytes, second: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield second
    yield from rest
