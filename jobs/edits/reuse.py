"""Edits that need not be bought again: the same picture, model, prompt and parameters, finished for the same tenant.

Every finished edit leaves an entry, the digest of its fingerprint to its job, for as long as its record lives. Entries
lie in many small hashes of a period each, which expire as a whole: about 50 bytes an edit where a tenant makes tens of
thousands a period, at most 150 where edits are few. What a picture's address held when it was last read takes about
250 bytes, and is remembered for jobs with `reuse` alone.
"""

import hashlib
import json
from base64 import b64encode
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redis import Redis

from jobs.catalogue.catalogue import PARAMETERS, ModelSpec
from jobs.foundation.job_states import State
from jobs.foundation.redis_keys import Keys
from jobs.images.picture import Picture
from jobs.plan.records import ReuseEntry
from jobs.records.job_codec import decode_output, decode_spec
from jobs.records.job_models import JobSpec, Output

PARTS = 4096
"""Hashes a period and tenant: 500,000 edits make 122 fields each, under `hash-max-listpack-entries`."""
PERIODS = 4
"""Periods that a retention has."""
_FIELD = 9


@dataclass(frozen=True)
class FinishedEdit:
    """A finished edit: its job and the output in its record."""

    job_id: str
    output: Output


@dataclass(frozen=True)
class LastRead:
    """The content of a picture's address when it was last read.

    Attributes:
        etag: as the source wrote it, quotes included.
        sha256: of the bytes, in hexadecimal.
        size: in bytes.
        picture: format and size of the bytes.
    """

    etag: str
    sha256: str
    size: int
    picture: Picture


def edit_fingerprint(tenant: str, sha256: str, spec: JobSpec, model: ModelSpec) -> bytes:
    """SHA-256 of everything that decides the result. Edits with the same fingerprint may reuse each other's output.

    Args:
        tenant: its name.
        sha256: of the input, in hexadecimal.
        spec: the edit; its seed counts only where the user gave it.
        model: what edits it; parameters that it is not sent do not count.
    """
    meant = {
        name: value
        for name in PARAMETERS
        if (value := getattr(spec, name)) is not None and name in model.parameters and model.parameters[name].send
    }
    if not spec.seed_given:
        meant.pop("seed", None)
    parts = [tenant, sha256, model.name, model.provider_model, spec.prompt, meant]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode(errors="surrogatepass")).digest()


class Reuse:
    """The entries of all tenants.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
        retention_s: how long a finished job's record is kept, in seconds.
    """

    def __init__(self, redis: Redis, keys: Keys, *, retention_s: float) -> None:
        self._redis = redis
        self._keys = keys
        self._retention_s = retention_s
        self._period_s = max(1.0, retention_s / PERIODS)

    def entry(self, tenant: str, fingerprint: bytes, job_id: str, at: datetime) -> ReuseEntry:
        """Where an edit that ends at `at` is entered; the script that ends the job does it in the same step."""
        key, field = self._place(tenant, fingerprint, int(at.timestamp() // self._period_s))
        return ReuseEntry(key, field, job_id.removeprefix("job_"), int((self._retention_s + self._period_s) * 1000))

    def find(self, tenant: str, fingerprint: bytes, at: datetime) -> FinishedEdit | None:
        """The latest edit with this fingerprint and a record. It does not check that the output still exists."""
        now = int(at.timestamp() // self._period_s)
        pipe = self._redis.pipeline(transaction=False)
        # One period more on either side: clocks differ.
        for period in range(now + 1, now - PERIODS - 2, -1):
            pipe.hget(*self._place(tenant, fingerprint, period))
        for name in filter(None, pipe.execute()):
            job_id = f"job_{name}"
            found: Any = self._redis.hmget(self._keys.job(job_id), ["output", "state", "spec"])
            output, state, spec = found
            if output and state == State.SUCCEEDED:
                return FinishedEdit(job_id, decode_output(output, decode_spec({"spec": spec}), job_id))
        return None

    def _place(self, tenant: str, fingerprint: bytes, period: int) -> tuple[str, str]:
        part = int.from_bytes(fingerprint[:2], "big") % PARTS
        return self._keys.edit_results(tenant, period, part), b64encode(fingerprint[2 : 2 + _FIELD]).decode()

    def last_read(self, tenant: str, address: str) -> LastRead | None:
        """The content of an address when it was last read for a tenant; None if unknown."""
        text = self._redis.get(self._read_key(tenant, address))
        if not text:
            return None
        etag, sha256, size, media_type, width, height, rotated = json.loads(str(text))
        return LastRead(etag, sha256, size, Picture(media_type, width, height, exif_rotated=rotated))

    def remember(self, tenant: str, address: str, read: LastRead) -> None:
        """Record the content of an address."""
        picture = read.picture
        known = [read.etag, read.sha256, read.size]
        known += [picture.media_type, picture.width, picture.height, picture.exif_rotated]
        text = json.dumps(known, separators=(",", ":"))
        self._redis.set(self._read_key(tenant, address), text, px=int(self._retention_s * 1000))

    def _read_key(self, tenant: str, address: str) -> str:
        digest = hashlib.blake2b(address.encode(errors="surrogatepass"), digest_size=12).digest()
        return self._keys.address_contents(tenant, b64encode(digest).decode())
