"""Downloading a manifest from the web into the bucket, before its first row is read."""

import httpx

from jobs.batches.manifests.columns import ManifestFault
from jobs.storage.bucket import Bucket
from jobs.storage.object_keys import manifest_key
from workers.net.http import BadRedirect, BodyLost, Http, Reach, TooLong
from workers.net.ssrf_guard import AddressRefused

MAX_BYTES = 128 * 1024 * 1024
"""A larger manifest must be uploaded, or put into the bucket."""
DEADLINE_S = 300.0
MAX_REDIRECTS = 4
_RETRY_LATER = frozenset({408, 423, 425, 429})


class ManifestUnavailable(Exception):
    """The manifest's server did not deliver it now."""


def download_manifest(bucket: Bucket, http: Http, batch_id: str, tenant: str, url: str) -> None:
    """Download a manifest to its key in the bucket; nothing happens where an earlier call has done so.

    Raises:
        ManifestFault: it cannot be downloaded from this address.
        ManifestUnavailable: its server did not deliver it now.
        Unavailable: the bucket does not accept it.
    """
    key = manifest_key(tenant, batch_id)
    if bucket.head(bucket.name, key) is not None:
        return
    try:
        reply = http.exchange(
            "GET", url, reach=Reach.USER, deadline_s=DEADLINE_S, max_bytes=MAX_BYTES, hops=MAX_REDIRECTS
        )
    except AddressRefused as error:
        raise ManifestFault(f"the manifest's address may not be fetched: {error}") from error
    except TooLong as error:
        raise ManifestFault(f"the manifest is too large to be downloaded: {error}; upload it") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError, BadRedirect) as error:
        raise ManifestFault(f"the manifest's address cannot be fetched: {error}") from error
    except (BodyLost, httpx.HTTPError) as error:
        raise ManifestUnavailable(f"the manifest's server: {error or type(error).__name__}") from error
    if reply.status >= 500 or reply.status in _RETRY_LATER:
        raise ManifestUnavailable(f"the manifest's server answered {reply.status}")
    if reply.status != 200:
        raise ManifestFault(f"the manifest's server answered {reply.status}: it cannot be fetched from this address")
    bucket.put(bucket.name, key, reply.body, media_type="application/octet-stream")
