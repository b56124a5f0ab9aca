"""Fetching a manifest that lies on the web into the bucket, before its first row is read."""

import httpx

from jobs.batches.manifests.columns import ManifestFault
from jobs.storage.object_keys import manifest_key
from jobs.wiring import Domain
from workers.net.http import BadRedirect, BodyLost, Http, Reach, TooLong
from workers.net.ssrf_guard import AddressRefused

MAX_BYTES = 128 * 1024 * 1024
"""Larger manifests must be uploaded, or put into the bucket."""
DEADLINE_S = 300.0
PATIENCE = frozenset({408, 423, 425, 429})
HOPS = 4


class ManifestUnavailable(Exception):
    """Its server did not deliver it this time."""


def keep_from_web(domain: Domain, http: Http, batch_id: str, tenant: str, url: str) -> None:
    """Fetch a manifest and put it where the batch's manifest lies; nothing where it was fetched before.

    Raises:
        ManifestFault: it cannot be had from there.
        ManifestUnavailable: its server did not deliver it this time.
        Unavailable: the bucket does not take it.
    """
    key = manifest_key(tenant, batch_id)
    if domain.bucket.head(domain.bucket.name, key) is not None:
        return
    try:
        reply = http.exchange("GET", url, reach=Reach.USER, deadline_s=DEADLINE_S, max_bytes=MAX_BYTES, hops=HOPS)
    except AddressRefused as error:
        raise ManifestFault(f"the manifest's address may not be fetched: {error}") from error
    except TooLong as error:
        raise ManifestFault(f"the manifest is too large for this way: {error}; upload it") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError, BadRedirect) as error:
        raise ManifestFault(f"the manifest's address cannot be fetched: {error}") from error
    except (BodyLost, httpx.HTTPError) as error:
        raise ManifestUnavailable(f"the manifest's server: {error or type(error).__name__}") from error
    if reply.status >= 500 or reply.status in PATIENCE:
        raise ManifestUnavailable(f"the manifest's server answered {reply.status}")
    if reply.status != 200:
        raise ManifestFault(f"the manifest's server answered {reply.status}: it cannot be fetched from this address")
    domain.bucket.put(domain.bucket.name, key, reply.body, media_type="application/octet-stream")
