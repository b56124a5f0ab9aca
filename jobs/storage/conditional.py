"""Writing over exactly the object that was seen, and copying exactly that one: the store itself decides."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from jobs.foundation.errors import NotFound, RetouchError, StorageFailed, Unavailable
from jobs.storage.bucket import Bucket, StoredObject, ascii_metadata
from jobs.storage.errors import Fault, border


class _Faulted(Exception):
    """A fault on its way to whoever knows what to make of it."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(fault.message)


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
    """Put an object where exactly that one is which the caller has seen there, or none.

    By `If-Match` and `If-None-Match`; a store that does not know them gets a plain put.

    Args:
        bucket: the store.
        name: of the bucket.
        key: where in it.
        data: all its bytes; the store is told their SHA-256 and holds them to it.
        media_type: what it is served as.
        metadata: kept beside it.
        there: what the caller has seen there.

    Returns:
        Whether it was put; False says that something else is there by now.

    Raises:
        StorageFailed: the store does not answer or does not take it.
    """
    conditions: list[dict[str, Any]] = [{"IfMatch": there.etag} if there else {"IfNoneMatch": "*"}, {}]
    for condition in conditions:
        try:
            with border(_Faulted):
                bucket.client.put_object(
                    Bucket=name,
                    Key=key,
                    Body=data,
                    ContentType=media_type,
                    Metadata=ascii_metadata(metadata),
                    ChecksumSHA256=base64.b64encode(hashlib.sha256(data).digest()).decode(),
                    **condition,
                )
        except _Faulted as faulted:
            if faulted.fault.kind in {"conflict", "missing"}:
                return False
            if faulted.fault.kind != "unsupported" or not condition:
                raise StorageFailed(faulted.fault.message) from faulted.__cause__
        else:
            return True
    return False


def copy_exact(
    bucket: Bucket,
    source: tuple[str, str],
    seen: StoredObject,
    target: tuple[str, str],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Copy an object inside the store, over one that is there.

    Args:
        bucket: the store.
        source: its bucket and key.
        seen: the source as the caller has seen it.
        target: bucket and key of the copy.
        metadata: what the copy has instead of the source's.

    Raises:
        NotFound: the source is not there any more, or is another object by now.
        Unavailable: the store does not answer, or refuses.
    """
    more: dict[str, Any] = {}
    if metadata is not None:
        more = {
            "MetadataDirective": "REPLACE",
            "Metadata": ascii_metadata(metadata),
            "ContentType": seen.media_type,
        }
    with border(_gone_or_away):
        bucket.client.copy_object(
            Bucket=target[0],
            Key=target[1],
            CopySource={"Bucket": source[0], "Key": source[1]},
            CopySourceIfMatch=seen.etag,
            **more,
        )


def _gone_or_away(fault: Fault) -> RetouchError:
    return NotFound(fault.message) if fault.kind in {"missing", "conflict"} else Unavailable(fault.message)
