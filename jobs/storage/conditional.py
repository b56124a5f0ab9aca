"""Replace or copy an object only if it has not changed. The store itself compares."""

from collections.abc import Mapping
from typing import Any

from jobs.foundation.errors import NotFound, RetouchError, StorageFailed, Unavailable
from jobs.storage.bucket import Bucket, ascii_metadata
from jobs.storage.errors import Fault, border
from jobs.storage.objects import StoredObject


def put_over(
    bucket: Bucket,
    name: str,
    key: str,
    data: bytes,
    *,
    media_type: str,
    metadata: Mapping[str, str],
    there: StoredObject | None,
) -> bool:
    """Put an object if its key still has the object that the caller has read, or still has none.

    The request has `If-Match` or `If-None-Match`. A store without conditional writes gets a plain put.

    Args:
        bucket: the store.
        name: name of the bucket.
        key: key in the bucket.
        data: all its bytes. The store checks their SHA-256.
        media_type: its `Content-Type`.
        metadata: the object's metadata.
        there: the object that the caller has read; None: there was none.

    Returns:
        Whether it was put; False if the key has another object now.

    Raises:
        StorageFailed: the store does not answer or does not store it.
    """
    condition = {"IfMatch": there.etag} if there else {"IfNoneMatch": "*"}
    fault = bucket.put_if(name, key, data, condition=condition, media_type=media_type, metadata=metadata)
    if fault is not None and fault.kind == "unsupported":
        fault = bucket.put_if(name, key, data, condition={}, media_type=media_type, metadata=metadata)
        if fault is not None and fault.kind == "unsupported":
            raise StorageFailed(fault.message)
    return fault is None


def copy_exact(
    bucket: Bucket,
    source: tuple[str, str],
    expected: StoredObject,
    target: tuple[str, str],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Copy an object inside the store if it has not changed. The copy replaces the object at its key.

    Args:
        bucket: the store.
        source: bucket and key of the object.
        expected: the object that the caller has read.
        target: bucket and key of the copy.
        metadata: replaces the source's metadata; None: the copy keeps it.

    Raises:
        NotFound: the source does not exist any more or has changed.
        Unavailable: the store does not answer or refuses.
    """
    replacement: dict[str, Any] = {}
    if metadata is not None:
        replacement = {
            "MetadataDirective": "REPLACE",
            "Metadata": ascii_metadata(metadata),
            "ContentType": expected.media_type,
        }
    with border(_copy_error):
        bucket.client.copy_object(
            Bucket=target[0],
            Key=target[1],
            CopySource={"Bucket": source[0], "Key": source[1]},
            CopySourceIfMatch=expected.etag,
            **replacement,
        )


def _copy_error(fault: Fault) -> RetouchError:
    return NotFound(fault.message) if fault.kind in {"missing", "conflict"} else Unavailable(fault.message)
