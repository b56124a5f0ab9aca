"""A store as an earlier version wrote it: every key with its type, value and time to live, and the API's views of it.

The snapshots are `tests/data/store_VERSION.json.gz`. Each was made by the version that it names, through its API and
its scripts on a real Valkey and a real SeaweedFS. Moments are absolute: `now_ms` is the moment of the snapshot, and a
test's clock starts there. All keys and secrets are made up.
"""

import base64
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis

from jobs.storage.bucket import Bucket

DATA = Path(__file__).parent.parent / "data"
RECEIVER = "@receiver@"
"""In a snapshot: host and port of the receiver of webhooks."""
_OFFLINE_RECEIVER = "127.0.0.1:9"


@dataclass(frozen=True)
class Snapshot:
    """A snapshot whose placeholders are replaced.

    Attributes:
        now_ms: the moment it was made, in ms since 1970.
        catalogue: the TOML text that its models come from.
        secret_key: what its secrets are encrypted with.
        api_keys: tenant to its API key; the key of `operator` is an admin key.
        revoked_key: an API key that the store does not know any more.
        named: ids by kind and by what they show: `jobs`, `batches`, `schedules`, endpoints.
        views: tenant to path to the API's answer at `now_ms`.
        entries: key to `type`, `value`, `ttl_ms`.
        objects: object key to content, base 64.
    """

    now_ms: int
    catalogue: str
    secret_key: str
    api_keys: dict[str, str]
    revoked_key: str
    named: dict[str, Any]
    views: dict[str, dict[str, Any]]
    entries: dict[str, dict[str, Any]]
    objects: dict[str, str]

    def restore(self, redis: Redis, bucket: Bucket) -> None:
        """Write every key and every object."""
        for key, entry in self.entries.items():
            _write(redis, key, entry["type"], entry["value"])
            if entry["ttl_ms"] is not None:
                redis.pexpire(key, entry["ttl_ms"])
        for name, content in self.objects.items():
            bucket.put(bucket.name, name, base64.b64decode(content), media_type="application/octet-stream")


def read_snapshot(version: str, *, prefix: str, receiver_url: str | None = None) -> Snapshot:
    """The snapshot of a version.

    Args:
        version: as in the file's name.
        prefix: the key prefix that the store gets.
        receiver_url: `http://host:port` of the receiver of its webhooks; nobody listens there where it is left out.
    """
    text = gzip.decompress((DATA / f"store_{version}.json.gz").read_bytes()).decode()
    receiver = receiver_url.removeprefix("http://") if receiver_url else _OFFLINE_RECEIVER
    text = text.replace(RECEIVER, receiver)
    content = json.loads(text.replace(json.loads(text)["prefix"], prefix))
    return Snapshot(
        now_ms=content["now_ms"],
        catalogue=content["catalogue"],
        secret_key=content["secret_key"],
        api_keys=content["api_keys"],
        revoked_key=content["revoked_key"],
        named=content["named"],
        views=content["views"],
        entries=content["keys"],
        objects=content["objects"],
    )


def _write(redis: Redis, key: str, kind: str, value: Any) -> None:
    match kind:
        case "string":
            redis.set(key, value)
        case "hash":
            redis.hset(key, mapping=value)
        case "list":
            redis.rpush(key, *value)
        case "set":
            redis.sadd(key, *value)
        case "zset":
            redis.zadd(key, dict(value))
        case "stream":
            for entry_id, fields in value["entries"]:
                redis.xadd(key, fields, id=entry_id)
            for group, last_read in value["groups"]:
                redis.xgroup_create(key, group, id=last_read, mkstream=True)
        case _:
            raise AssertionError(f"{key} has the unexpected type {kind}")


def differences(recorded: Any, present: Any, path: str = "") -> list[str]:
    """Where a present answer differs from a recorded one. Fields that were added since do not count."""
    if isinstance(recorded, dict) and isinstance(present, dict):
        return [
            found
            for name, value in recorded.items()
            for found in (
                differences(value, present[name], f"{path}.{name}")
                if name in present
                else [f"{path}.{name} is missing"]
            )
        ]
    if isinstance(recorded, list) and isinstance(present, list) and len(recorded) == len(present):
        pairs = zip(recorded, present, strict=True)
        return [found for at, (old, new) in enumerate(pairs) for found in differences(old, new, f"{path}[{at}]")]
    return [] if recorded == present else [f"{path}: {recorded!r} became {present!r}"]
