"""Fetching the picture that a job edits: from an address that a user wrote, or from a bucket."""

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
_STRONG = re.compile(r'"[\x21\x23-\x7e]{1,256}"')
_LATER = frozenset({408, 423, 425, 429})


class Fetched(NamedTuple):
    """A picture that the model takes.

    Attributes:
        data: all its bytes.
        picture: what they are.
        sha256: of them, in hexadecimal.
        etag: by which their source tells them from other bytes, if it does.
    """

    data: bytes
    picture: Picture
    sha256: str
    etag: str | None = None


class InputFetcher:
    """Fetches pictures on users' behalf: guarded, bounded, checked."""

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
        """Fetch a picture and hold it to its model's rules.

        Args:
            image: `https://...`, `s3://bucket/key`; `http://...` only into private networks that the operator allowed.
            model: whose rules they are.
            tenant: on whose behalf.
            deadline_s: seconds for all of it.
            stop: whether to give up, asked now and then.

        Raises:
            InputRejected: it cannot be had, or the model does not take it.
            InputUnavailable: its server did not deliver it this time.
            StorageFailed: the bucket did not; that is not the job's fault, and uses up no try of it.
            Interrupted: `stop` said so.
        """
        fetched = self.fetch_changed(image, model, tenant, None, deadline_s=deadline_s, stop=stop)
        if fetched is None:
            raise InputUnavailable("the picture's server says that it has not changed, and was not asked")
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
        """Fetch a picture unless its source says that it is what it was; None then.

        A source on the web is asked by `If-None-Match`, one in a bucket by its ETag before it is read. A weak ETag does
        not stand for the same bytes (RFC 9110, 8.8.1), and is not used.

        Args:
            image: as for `fetch`, and so are the others.
            model: whose rules they are.
            tenant: on whose behalf.
            before: what was read there last; None fetches in any case.
            deadline_s: seconds for all of it.
            stop: whether to give up.

        Raises:
            InputRejected, InputUnavailable, Interrupted, StorageFailed: as for `fetch`.
        """
        most = min(model.max_image_bytes, self._settings.max_upload_bytes)
        etag = before.etag if before else None
        if image.startswith("s3://"):
            found = self._from_bucket(image, tenant, most, etag)
        else:
            found = self._from_web(image, most, deadline_s, stop, etag)
        if found is None:
            return None
        data, etag = found
        picture = probe(data, max_pixels=model.max_width * model.max_height)
        fault = model.image_fault(picture.media_type, picture.width, picture.height, len(data))
        if fault is not None:
            raise InputRejected(f"the picture {fault}")
        return Fetched(data, picture, hashlib.sha256(data).hexdigest(), etag)

    def _from_bucket(self, image: str, tenant: str, most: int, etag: str | None) -> tuple[bytes, str | None] | None:
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
            return self._bucket.read(bucket, key, max_bytes=most)
        except InputUnavailable as error:
            raise StorageFailed(error.message) from error

    def _from_web(
        self, image: str, most: int, deadline_s: float, stop: Callable[[], bool] | None, etag: str | None
    ) -> tuple[bytes, str | None] | None:
        try:
            # As the user wrote it; the guard then sees what httpx makes of it.
            check_url(image, networks=self._settings.private_networks)
        except ValueError as error:
            raise InputRejected(f"the picture's address may not be fetched: {error}") from error
        try:
            reply = self._http.exchange(
                "GET",
                image,
                reach=Reach.USER,
                deadline_s=deadline_s,
                max_bytes=most,
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
            raise InputRejected("the picture's address is no URL that can be fetched") from error
        except TooLong as error:
            raise InputRejected(f"the picture is too large: {error}") from error
        except BadRedirect as error:
            raise InputRejected(f"the picture's address redirects badly: {error}") from error
        except Stopped as error:
            raise Interrupted("the worker stopped before the picture was fetched") from error
        except BodyLost as error:
            raise InputUnavailable(f"the picture did not come whole: {error}") from error
        except FOREIGN as error:
            raise InputUnavailable(f"the picture's server: {error or type(error).__name__}") from error
        if reply.status == 304 and etag is not None:
            return None
        _check_status(reply)
        told = reply.headers.get("etag", "")
        return reply.body, told if _STRONG.fullmatch(told) else None


def _check_status(reply: Reply) -> None:
    if reply.status == 200:
        return
    if reply.status >= 500 or reply.status in _LATER:
        raise InputUnavailable(
            f"the picture's server answered {reply.status}", retry_after_s=retry_after_s(reply.headers)
        )
    raise InputRejected(f"the picture's server answered {reply.status}: it cannot be fetched from this address")
