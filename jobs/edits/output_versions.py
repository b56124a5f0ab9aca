"""Versions of an output under one key: the key holds the newest version, a folder beside it the earlier ones.

Before a version is overwritten, it is copied aside under a name made of its version and job, so that
the copy is idempotent. At every moment the key holds a whole version. The record of the older job is updated in the
next step; until then its URL shows the newer version.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from redis import Redis

from jobs.foundation.redis_keys import Keys
from jobs.plan.script_runner import ScriptRunner
from jobs.records.job_codec import decode_output, decode_spec, to_json
from jobs.records.job_models import Output
from jobs.records.output_key import key_part
from jobs.storage.bucket import Bucket
from jobs.storage.conditional import copy_exact
from jobs.storage.object_keys import MAX_KEY_BYTES
from jobs.storage.objects import JOB, StoredObject

VERSION, BEFORE, REPLACED, TOP = "version", "version-before", "replaced", "version-top"
"""Metadata: an object's version, the one before it and that one's job, and the highest that its key ever had."""
ROLLED_BACK = "rolled-back"
"""Metadata: the job whose output a rollback restored here."""
NOBODY = "-"
FOLDER = ".versions"


@dataclass(frozen=True)
class ObjectVersion:
    """The version of an object, from its metadata.

    Attributes:
        job_id: the job that made it; `NOBODY` for an object that Retouch did not put.
        version: from 1.
        top: the highest version that its key ever had.
        before: the version before it, and its job; None where there was none.
    """

    job_id: str
    version: int
    top: int
    before: tuple[int, str] | None

    @classmethod
    def of(cls, there: StoredObject) -> "ObjectVersion":
        """Read an object's metadata."""
        metadata = {name: unquote(value) for name, value in there.metadata.items()}
        version = _number(metadata.get(VERSION), 1)
        before = _number(metadata.get(BEFORE), 0)
        return cls(
            job_id=metadata.get(JOB) or NOBODY,
            version=version,
            top=max(version, _number(metadata.get(TOP), 1)),
            before=(before, metadata.get(REPLACED, NOBODY)) if before else None,
        )

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of an object of this version, without its job."""
        metadata = {VERSION: str(self.version), TOP: str(self.top)}
        return metadata | ({BEFORE: str(self.before[0]), REPLACED: self.before[1]} if self.before else {})

    def previous(self, key: str) -> str | None:
        """Where the version before it lies, if it lies under `key`."""
        return aside_key(key, *self.before) if self.before else None

    def over(self, job_id: str) -> "ObjectVersion":
        """The standing of a job's output that takes this one's place."""
        return ObjectVersion(job_id, self.top + 1, self.top + 1, (self.version, self.job_id))


def first_of(job_id: str) -> ObjectVersion:
    """The standing of an output where nothing was before."""
    return ObjectVersion(job_id, 1, 1, None)


def aside_key(key: str, version: int, job_id: str) -> str:
    """Where a version of a key's object is kept once another has taken its place."""
    folder, slash, name = key.rpartition("/")
    stem, dot, extension = name.rpartition(".")
    whose = "other" if job_id == NOBODY else job_id
    file = f"{version:04d}-{whose}" + (f".{extension}" if dot and stem else "")
    found = f"{folder}{slash}{FOLDER}/{name}/{file}"
    if len(found.encode(errors="surrogatepass")) <= MAX_KEY_BYTES:
        return found
    # key_part shortens a long key and keeps two long keys distinct.
    return f"{FOLDER}/{key_part(key)}/{file}"


def copy_aside(bucket: Bucket, name: str, key: str, there: StoredObject) -> str:
    """Copy what lies under a key aside; returns where it lies then.

    Raises:
        NotFound: something else lies there by now.
        Unavailable: the store does not answer, or refuses.
    """
    standing = ObjectVersion.of(there)
    aside = aside_key(key, standing.version, standing.job_id)
    copy_exact(bucket, (name, key), there, (name, aside))
    return aside


class OutputVersions:
    """Keeps the records of jobs in step with the versions of their outputs.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
        scripts: runs the scripts.
    """

    def __init__(self, redis: Redis, keys: Keys, scripts: ScriptRunner) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = scripts

    def move_output(self, job_id: str, bucket: str, source: str, target: str) -> None:
        """Change the key of a job's output in its record; nothing happens where the record does not name `source`."""
        if job_id == NOBODY:
            return
        found: Any = self._redis.hmget(self._keys.job(job_id), ["output", "spec"])
        text, spec = found
        if not text:
            return
        output = decode_output(text, decode_spec({"spec": spec}), job_id)
        if (output.bucket, output.key) == (bucket, source):
            moved = to_json(output.model_copy(update={"key": target}))
            self._scripts.run("jobs/move_output", [self._keys.job(job_id)], [text, moved])

    def follow(self, output: Output, standing: ObjectVersion) -> None:
        """Record the new key of the output that was copied aside for this one."""
        previous = standing.previous(output.key)
        if standing.before is not None and previous is not None:
            self.move_output(standing.before[1], output.bucket, output.key, previous)


def metadata_of(there: StoredObject) -> Mapping[str, str]:
    """An object's metadata as they were before headers carried them."""
    return {name: unquote(value) for name, value in there.metadata.items()}


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdecimal() else default
