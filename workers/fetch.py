"""Fetching the picture that a job edits: from an address that a user wrote, or from a bucket."""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import httpx

from jobs.addresses import check_url
from jobs.bucket import Bucket
from jobs.catalogue import ModelSpec
from jobs.errors import InputRejected, InputUnavailable, Interrupted, InvalidInput
from jobs.object_names import check_readable, parse_s3_url
from jobs.pictures import Picture, probe
from jobs.settings import Settings
from workers.guard import AddressRefused
from workers.http import FOREIGN, BadRedirect, BodyLost, Http, Reach, Reply, Stopped, TooLong, retry_after_s

MAX_REDIRECTS = 4
DEADLINE_S = 60.0
_LATER = frozenset({408, 423, 425, 429})


class Fetched(NamedTuple):
    """A picture that the model takes.

    Attributes:
        data: all its bytes.
        picture: what they are.
        sha256: of them, in hexadecimal.
    """

    data: bytes
    picture: Picture
    sha256: str


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
            Interrupted: `stop` said so.
        """
        most = min(model.max_image_bytes, self._settings.max_upload_bytes)
        if image.startswith("s3://"):
            data = self._from_bucket(image, tenant, most)
        else:
            data = self._from_web(image, most, deadline_s, stop)
        picture = probe(data, max_pixels=model.max_width * model.max_height)
        fault = model.image_fault(picture.media_type, picture.width, picture.height, len(data))
        if fault is not None:
            raise InputRejected(f"the picture {fault}")
        return Fetched(data, picture, hashlib.sha256(data).hexdigest())

    def _from_bucket(self, image: str, tenant: str, most: int) -> bytes:
        try:
            bucket, key = parse_s3_url(image)
            check_readable(tenant, bucket, key, buckets=self._settings.buckets, default_bucket=self._settings.s3_bucket)
        except (ValueError, InvalidInput) as error:
            raise InputRejected(f"the picture's address: {error}") from error
        return self._bucket.get(bucket, key, max_bytes=most)

    def _from_web(self, image: str, most: int, deadline_s: float, stop: Callable[[], bool] | None) -> bytes:
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
                headers={"accept": "image/png, image/jpeg, image/webp"},
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
        _check_status(reply)
        return reply.body


def _check_status(reply: Reply) -> None:
    if reply.status == 200:
        return
    if reply.status >= 500 or reply.status in _LATER:
        raise InputUnavailable(
            f"the picture's server answered {reply.status}", retry_after_s=retry_after_s(reply.headers)
        )
    raise InputRejected(f"the picture's server answered {reply.status}: it cannot be fetched from this address")
