"""The bucket: S3 through boto3, tuned, and none of boto3's errors beyond this file.

A put of 0.5 MB costs 1.3 ms of CPU so configured (1.8 with the defaults), a get 1.15 (1.3). A presigned URL sent by
urllib3 alone would cost 0.8 and 0.65, without botocore's proxies, certificate bundles and region redirects: those are
worth the difference.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from jobs.foundation.errors import (
    ConfigurationError,
    InputRejected,
    InputUnavailable,
    NotFound,
    RetouchError,
    StorageFailed,
    Unavailable,
)
from jobs.foundation.settings import Settings
from jobs.storage.errors import Fault, border, input_fault, unavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

JOB = "job-id"
"""The metadata entry that names the job an output belongs to."""
ATTEMPT = "attempt"
"""The metadata entry that holds the number of the attempt that wrote an output: its fencing token."""

_FENCE_TRIES = 6


@dataclass(frozen=True)
class StoredObject:
    """What the store knows of an object.

    Attributes:
        size: in bytes.
        media_type: as it was put.
        metadata: names in lower case.
        etag: as the store writes it, quotes included.
    """

    size: int
    media_type: str
    metadata: Mapping[str, str]
    etag: str


@dataclass(frozen=True)
class Listed:
    """An object as a listing tells of it; `etag` as the store writes it, `size` in bytes."""

    key: str
    size: int
    etag: str


class Bucket:
    """The store's objects. One for a process, used by all its threads; nothing is connected to before it is used.

    Retries are off: whoever called decides whether to try again.

    Args:
        settings: endpoints, region and bucket; credentials come from the environment as boto3 reads them.
        connections: most kept open; one for each thread that uses the store at once.
        connect_timeout_s: of one connection, in seconds.
        read_timeout_s: most seconds without a byte from the store.

    Raises:
        ConfigurationError: endpoint, region or an AWS variable cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        connections: int = 64,
        connect_timeout_s: float = 5,
        read_timeout_s: float = 30,
    ) -> None:
        self.name = settings.s3_bucket
        config = Config(
            signature_version="s3v4",
            s3={
                # AWS serves new buckets by their own host names alone.
                "addressing_style": "path" if settings.s3_endpoint_url else "auto",
                # The body is bound by x-amz-checksum-sha256, a signed header: signing it besides would hash it twice.
                "payload_signing_enabled": False,
            },
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            parameter_validation=False,
            retries={"total_max_attempts": 1},
            max_pool_connections=connections,
            connect_timeout=connect_timeout_s,
            read_timeout=read_timeout_s,
            tcp_keepalive=True,
        )
        # A session of our own: boto3's default one is not made for threads.
        try:
            session = boto3.Session(region_name=settings.s3_region)
            self._s3: S3Client = session.client("s3", endpoint_url=settings.s3_endpoint_url, config=config)
            self._public_s3: S3Client = (
                session.client("s3", endpoint_url=settings.s3_public_endpoint_url, config=config)
                if settings.s3_public_endpoint_url
                else self._s3
            )
        except (ValueError, BotoCoreError) as error:
            raise ConfigurationError(
                f"the store: {error}; see RETOUCH_S3_ENDPOINT_URL, RETOUCH_S3_REGION and the AWS variables"
            ) from error

    def put(
        self,
        bucket: str,
        key: str,
        data: bytes,
        *,
        media_type: str,
        metadata: Mapping[str, str] | None = None,
        sha256: str | None = None,
    ) -> None:
        """Put an object, over one that is there.

        Args:
            bucket: where.
            key: where in it.
            data: all its bytes; the store is told their SHA-256 and holds them to it.
            media_type: what it is served as.
            metadata: kept beside it; what is not ASCII is percent-encoded.
            sha256: of `data` in hexadecimal, where it is known already.

        Raises:
            Unavailable: the store does not answer or does not take it.
        """
        with border(unavailable):
            self._put(bucket, key, data, media_type=media_type, metadata=metadata or {}, sha256=sha256)

    def put_fenced(
        self,
        bucket: str,
        key: str,
        data: bytes,
        *,
        media_type: str,
        metadata: Mapping[str, str],
        job_id: str,
        attempt: int,
        sha256: str | None = None,
    ) -> bool:
        """Put a job's output, unless a later attempt of the same job has put its own.

        The store itself decides, by `If-None-Match` and `If-Match`. One that does not know them gets a plain put after
        a look at what is there, which leaves a gap of one round trip.

        Returns:
            Whether it was put; False says that this attempt came too late.

        Raises:
            StorageFailed: the store does not answer or does not take it.
        """
        metadata = {**metadata, JOB: job_id, ATTEMPT: str(attempt)}

        def put(condition: Mapping[str, str]) -> Fault | None:
            try:
                with border(_Faulted):
                    self._put(
                        bucket,
                        key,
                        data,
                        media_type=media_type,
                        metadata=metadata,
                        sha256=sha256,
                        condition=condition,
                    )
            except _Faulted as faulted:
                if faulted.fault.kind in {"conflict", "unsupported", "missing"}:
                    return faulted.fault
                raise StorageFailed(faulted.fault.message) from faulted.__cause__
            return None

        fault = put({"IfNoneMatch": "*"})
        for _ in range(_FENCE_TRIES):
            if fault is None:
                return True
            try:
                there = self.head(bucket, key)
            except RetouchError as error:
                raise StorageFailed(str(error)) from error
            if there is not None and is_later(there, job_id, attempt):
                return False
            if fault.kind == "unsupported":
                condition: Mapping[str, str] = {}
            elif there is None:
                condition = {"IfNoneMatch": "*"}
            else:
                condition = {"IfMatch": there.etag}
            fault = put(condition)
        if fault is None:
            return True
        raise StorageFailed(f"the object changes faster than it can be put ({fault.message})")

    def _put(
        self,
        bucket: str,
        key: str,
        data: bytes,
        *,
        media_type: str,
        metadata: Mapping[str, str],
        sha256: str | None,
        condition: Mapping[str, str] | None = None,
    ) -> None:
        digest = bytes.fromhex(sha256) if sha256 else hashlib.sha256(data).digest()
        more: dict[str, Any] = dict(condition or {})
        self._s3.put_object(
            Bucket=bucket,
            Key=key,
            Body=data,
            ContentType=media_type,
            Metadata=ascii_metadata(metadata),
            ChecksumSHA256=base64.b64encode(digest).decode(),
            **more,
        )

    def get(self, bucket: str, key: str, *, max_bytes: int) -> bytes:
        """All bytes of an object.

        Raises:
            InputRejected: there is none, it may not be read, or it has more than `max_bytes`.
            InputUnavailable: the store does not answer, or not whole.
        """
        return self.read(bucket, key, max_bytes=max_bytes)[0]

    def read(self, bucket: str, key: str, *, max_bytes: int) -> tuple[bytes, str]:
        """All bytes of an object, and its ETag as the store writes it.

        Raises:
            InputRejected: there is none, it may not be read, or it has more than `max_bytes`.
            InputUnavailable: the store does not answer, or not whole.
        """
        with border(lambda fault: input_fault(fault, bucket, key)):
            answer = self._s3.get_object(Bucket=bucket, Key=key)
            with answer["Body"] as body:
                size = answer["ContentLength"]
                if size > max_bytes:
                    raise InputRejected(f"s3://{bucket}/{key} has {size:,} bytes: at most {max_bytes:,} are taken")
                data = body.read()
        if len(data) != size:
            raise InputUnavailable(f"s3://{bucket}/{key} ended after {len(data):,} of {size:,} bytes")
        return data, answer["ETag"]

    def head(self, bucket: str, key: str) -> StoredObject | None:
        """What is known of an object; None if there is none.

        Raises:
            Unavailable: the store does not answer, or refuses.
        """
        try:
            with border(unavailable):
                answer = self._s3.head_object(Bucket=bucket, Key=key)
        except NotFound:
            return None
        return StoredObject(
            size=answer["ContentLength"],
            media_type=answer.get("ContentType", "application/octet-stream"),
            metadata={name.lower(): value for name, value in answer.get("Metadata", {}).items()},
            etag=answer["ETag"],
        )

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object; nothing where there is none.

        Raises:
            Unavailable: the store does not answer, or refuses.
        """
        try:
            with border(unavailable):
                self._s3.delete_object(Bucket=bucket, Key=key)
        except NotFound:
            return

    def copy(self, source_bucket: str, source_key: str, bucket: str, key: str) -> None:
        """Copy an object with its media type and metadata, inside the store.

        Raises:
            NotFound: there is no such source.
            Unavailable: the store does not answer, or refuses.
        """
        with border(unavailable):
            self._s3.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": source_bucket, "Key": source_key})

    def list_keys(self, bucket: str, prefix: str, *, start_after: str = "", page: int = 1000) -> Iterator[str]:
        """The keys that begin with `prefix`; see `list_objects`."""
        return (one.key for one in self.list_objects(bucket, prefix, start_after=start_after, page=page))

    def list_objects(self, bucket: str, prefix: str, *, start_after: str = "", page: int = 1000) -> Iterator[Listed]:
        """The objects whose keys begin with `prefix`, in the store's order, fetched a page at a time.

        Args:
            bucket: where.
            prefix: what they begin with.
            start_after: only keys after this one.
            page: keys a request, at most 1,000.

        Raises:
            Unavailable: the store does not answer, or refuses.
        """
        more: dict[str, Any] = {"StartAfter": start_after} if start_after else {}
        while True:
            with border(unavailable):
                answer = self._s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=page, **more)
            for entry in answer.get("Contents", []):
                yield Listed(entry["Key"], entry["Size"], entry["ETag"])
            if not answer.get("IsTruncated"):
                return
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def presign_get(self, bucket: str, key: str, *, expires_s: int = 3600) -> str:
        """A URL that anybody may read the object with for `expires_s` seconds. Nothing is sent.

        Raises:
            Unavailable: there are no credentials to sign with.
        """
        with border(unavailable):
            return self._public_s3.generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=expires_s
            )

    def presign_put(self, bucket: str, key: str, *, media_type: str | None = None, expires_s: int = 3600) -> str:
        """A URL that anybody may put the object with for `expires_s` seconds. Nothing is sent.

        Args:
            bucket: where.
            key: where in it.
            media_type: the `Content-Type` that the put must then send; any where None.
            expires_s: how long.

        Raises:
            Unavailable: there are no credentials to sign with.
        """
        params = {"Bucket": bucket, "Key": key, **({"ContentType": media_type} if media_type else {})}
        with border(unavailable):
            return self._public_s3.generate_presigned_url("put_object", Params=params, ExpiresIn=expires_s)

    @property
    def client(self) -> "S3Client":
        """boto3's own client, for `jobs.storage.streams`: its errors are foreign."""
        return self._s3

    def check(self) -> None:
        """Ask the store for our bucket: one cheap call, for readiness.

        Raises:
            Unavailable: it does not answer, refuses, or has no such bucket.
        """
        try:
            with border(unavailable):
                self._s3.head_bucket(Bucket=self.name)
        except NotFound as error:
            raise Unavailable(f"there is no bucket {self.name!r}: create it, or set RETOUCH_S3_BUCKET") from error

    def close(self) -> None:
        """Let go of every connection."""
        self._s3.close()
        self._public_s3.close()


def ascii_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata as headers carry it: what is not ASCII is percent-encoded."""
    return {name: quote(value, safe=" !#$&'()*+,/:;=?@[]~\"<>^`{|}") for name, value in metadata.items()}


class _Faulted(Exception):
    """A fault on its way to whoever knows what to make of it."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(fault.message)


def is_later(there: StoredObject, job_id: str, attempt: int) -> bool:
    """Whether a later attempt of the same job has put this object."""
    written = there.metadata.get(ATTEMPT, "")
    return there.metadata.get(JOB) == job_id and written.isdecimal() and int(written) > attempt
