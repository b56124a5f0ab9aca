"""Marks of the pictures under a schedule's prefix, as of their last success.

They are digests in many small hashes, which Redis stores as listpacks: about 30 bytes per picture for hundreds of
thousands of pictures, at most 160 for few.
"""

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from jobs.foundation.redis_keys import Keys
from jobs.storage.objects import Listed

PARTS = 16_384
"""Hashes per schedule. A million pictures give 61 fields each, which is below `hash-max-listpack-entries`."""
FIELD, MARK = 9, 6


@dataclass(frozen=True)
class Mark:
    """Digests of a picture: the number of its hash, its field, and the field's value."""

    part: int
    field: str
    value: str

    @property
    def line(self) -> str:
        """The mark as a line of text."""
        return f"{self.part:04x}{self.field}{self.value}"

    @classmethod
    def read(cls, line: str) -> "Mark":
        """Parse a line."""
        return cls(int(line[:4], 16), line[4:16], line[16:])


def mark_of(listed: Listed, recipe: str) -> Mark:
    """The mark of a listed object; it changes with the object and with `recipe`, a digest of parameters."""
    place = hashlib.blake2b(listed.key.encode(errors="surrogatepass"), digest_size=2 + FIELD).digest()
    version = f"{listed.etag}\0{listed.size}\0{recipe}".encode()
    value = hashlib.blake2b(version, digest_size=MARK).digest()
    return Mark(int.from_bytes(place[:2], "big") % PARTS, b64encode(place[2:]).decode(), b64encode(value).decode())


class SeenObjects:
    """The marks of all schedules.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    def known(self, schedule_id: str, marks: Sequence[Mark]) -> list[bool]:
        """For each mark, whether it equals the mark of the picture's last success."""
        pipe = self._redis.pipeline(transaction=False)
        for mark in marks:
            pipe.hget(self._keys.seen_objects(schedule_id, mark.part), mark.field)
        return [value == mark.value for value, mark in zip(pipe.execute(), marks, strict=True)]

    def record(self, schedule_id: str, marks: Iterable[Mark]) -> None:
        """Record the marks of succeeded pictures. A second call changes nothing."""
        pipe = self._redis.pipeline(transaction=False)
        for mark in marks:
            pipe.hset(self._keys.seen_objects(schedule_id, mark.part), mark.field, mark.value)
        pipe.execute()

    def forget(self, schedule_id: str) -> None:
        """Delete all marks of a schedule."""
        for first in range(0, PARTS, 1024):
            names: Any = [self._keys.seen_objects(schedule_id, part) for part in range(first, first + 1024)]
            self._redis.unlink(*names)
