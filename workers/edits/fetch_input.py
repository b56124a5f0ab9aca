"""Fetching the picture that a job edits: from an address that a user gave, or from a bucket."""

import hashlib
import re
from collections.abc import Callable
from typing import NamedTuple

import httpx

from jobs.catalogue.catalogue import ModelSpec
from jobs.edits.reuse import LastRead
from jobs.foundation.address_policy import check_url
from jobs.foundation.errors import InputRejected, InputUnavailable, Interrupted, InvalidInput, StorageFailed
from jobs.foundation.settings import Settings
from jobs.images.picture import Picture
from jobs.images.probe import probe
from jobs.storage.bucket import Bucket
from jobs.storage.object_keys import check_readable, parse_s3_url
from workers.net.http import FOREIGN, BadRedirect, BodyLost, Http, Reach, Reply, Stopped, TooLong, retry_after_s
from workers.net.ssrf_guard import AddressRefused

MAX_REDIRECTS = 4
DEADLINE_S = 60.0
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{1,256}"')
_RETRY_LATER = frozenset({408, 423, 425, 429})


class Fetched(NamedTuple):
    """A picture that the model accepts.

    Attributes:
        data: all its bytes.
        picture: their media type and size in pixels.
        sha256: of the bytes, in hexadecimal.
        etag: the source's strong ETag of the bytes, if it sends one.
    """

    data: bytes
    picture: Picture
    sha256: str
    etag: str | None = None


class InputFetcher:
    """Fetches pictures for users: guarded, bounded in time and size, and checked. Safe in any number of threads.

    Args:
        http: the guarded clients.
        bucket: reads from S3.
        settings: buckets, networks and size limits.
    """

    def __init__(self, http: Http, bucket: Bucket, settings: Settings) -> None:
        self._http = http
        self._bucket = bucket
        self._settings = settings

    def fetch(
        self,
        image: str,
        model: ModelSpec,
        tenant: str,
        *,
        deadline_s: float = DEADLINE_S,
        stop: Callable[[], bool] | None = None,
    ) -> Fetched:
        """Fetch a picture and check that the model accepts it.

        Args:
            image: `https://...`, `s3://bucket/key`; `http://...` only into private networks that the operator allowed.
            model: its limits apply.
            tenant: the job's owner.
            deadline_s: how long the whole exchange may take, in seconds.
            stop: whether to stop early; it is called repeatedly.

        Raises:
            InputRejected: the picture cannot be fetched from this address, or the model does not accept it.
            InputUnavailable: its server did not deliver it now.
            StorageFailed: the bucket did not deliver it now; that uses up no try of the job.
            Interrupted: `stop` returned True.
        """
        fetched = self.fetch_changed(image, model, tenant, None, deadline_s=deadline_s, stop=stop)
        if fetched is None:
            raise InputUnavailable("the picture's server answered 304 to a request without a condition")
        return fetched

    def fetch_changed(
        self,
        image: str,
        model: ModelSpec,
        tenant: str,
        before: LastRead | None,
        *,
        deadline_s: float = DEADLINE_S,
        stop: Callable[[], bool] | None = None,
    ) -> Fetched | None:
        """Fetch a picture; None where it has not changed since it was read last.

        A web server is asked with `If-None-Match`. The ETag of an object in a bucket is compared before the object is
        read. A weak ETag does not promise the same bytes (RFC 9110, 8.8.1), and is not used.

        Args:
            image: as for `fetch`.
            model: as for `fetch`.
            tenant: as for `fetch`.
            before: what was read there last; None fetches the picture in any case.
            deadline_s: as for `fetch`.
            stop: as for `fetch`.

        Raises:
            InputRejected, InputUnavailable, Interrupted, StorageFailed: as for `fetch`.
        """
        max_bytes = min(model.max_image_bytes, self._settings.max_upload_bytes)
        etag = before.etag if before else None
        if image.startswith("s3://"):
            found = self._from_bucket(image, tenant, max_bytes, etag)
        else:
            found = self._from_web(image, max_bytes, deadline_s, stop, etag)
        if found is None:
            return None
        data, etag = found
        picture = probe(data, max_pixels=model.max_width * model.max_height)
        fault = model.image_fault(picture.media_type, picture.width, picture.height, len(data))
        if fault is not None:
            raise InputRejected(f"the picture {fault}")
        return Fetched(data, picture, hashlib.sha256(data).hexdigest(), etag)

    def _from_bucket(
        self, image: str, tenant: str, max_bytes: int, etag: str | None
    ) -> tuple[bytes, str | None] | None:
        try:
            bucket, key = parse_s3_url(image)
            check_readable(tenant, bucket, key, buckets=self._settings.buckets, default_bucket=self._settings.s3_bucket)
        except (ValueError, InvalidInput) as error:
            raise InputRejected(f"the picture's address: {error}") from error
        try:
            if etag is not None:
                there = self._bucket.head(bucket, key)
                if there is not None and there.etag == etag:
                    return None
            return self._bucket.read(bucket, key, max_bytes=max_bytes)
        except InputUnavailable as error:
            raise StorageFailed(error.message) from error

    def _from_web(
        self, image: str, max_bytes: int, deadline_s: float, stop: Callable[[], bool] | None, etag: str | None
    ) -> tuple[bytes, str | None] | None:
        try:
            # This checks the address as the user wrote it. The guard checks it again as httpx reads it.
            check_url(image, networks=self._settings.private_networks)
        except ValueError as error:
            raise InputRejected(f"the picture's address may not be fetched: {error}") from error
        try:
            reply = self._http.exchange(
                "GET",
                image,
                reach=Reach.USER,
                deadline_s=deadline_s,
                max_bytes=max_bytes,
                hops=MAX_REDIRECTS,
                headers={
                    "accept": "image/png, image/jpeg, image/webp",
                    **({"if-none-match": etag} if etag else {}),
                },
                stop=stop,
            )
        except AddressRefused as error:
            raise InputRejected(f"the picture's address may not be fetched: {error}") from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            raise InputRejected("the picture's address is not a valid URL") from error
        except TooLong as error:
            raise InputRejected(f"the picture is too large: {error}") from error
        except BadRedirect as error:
            raise InputRejected(f"the picture's address has an invalid redirect: {error}") from error
        except Stopped as error:
            raise Interrupted("the worker stopped before the picture was fetched") from error
        except BodyLost as error:
            raise InputUnavailable(f"the picture was not received completely: {error}") from error
        except FOREIGN as error:
            raise InputUnavailable(f"the picture's server: {error or type(error).__name__}") from error
        if reply.status == 304 and etag is not None:
            return None
        _check_status(reply)
        new_etag = reply.headers.get("etag", "")
        return reply.body, new_etag if _STRONG_ETAG.fullmatch(new_etag) else None


def _check_status(reply: Reply) -> None:
    if reply.status == 200:
        return
    if reply.status >= 500 or reply.status in _RETRY_LATER:
        raise InputUnavailable(
            f"the picture's server answered {reply.status}", retry_after_s=retry_after_s(reply.headers)
        )
    raise InputRejected(f"the picture's server answered {reply.status}: it cannot be fetched from this address")
