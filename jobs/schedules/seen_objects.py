"""What the pictures under a schedule's prefix were at their last success.

Kept in Redis as digests, in many small hashes, which Redis stores without an entry of its own for each field: about
30 bytes a picture where there are hundreds of thousands, at most 160 where there are few.
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
"""Hashes a schedule: a million pictures make 61 fields each, under `hash-max-listpack-entries`."""
FIELD, MARK = 9, 6


@dataclass(frozen=True)
class Mark:
    """A picture as its digests: which hash, which field of it, and what it was."""

    part: int
    field: str
    value: str

    @property
    def line(self) -> str:
        """As text."""
        return f"{self.part:04x}{self.field}{self.value}"

    @classmethod
    def read(cls, line: str) -> "Mark":
        """From text."""
        return cls(int(line[:4], 16), line[4:16], line[16:])


def mark_of(listed: Listed, recipe: str) -> Mark:
    """The mark of an object as it was listed; `recipe` says what is done with it: another one is a change, too."""
    place = hashlib.blake2b(listed.key.encode(errors="surrogatepass"), digest_size=2 + FIELD).digest()
    said = f"{listed.etag}\0{listed.size}\0{recipe}".encode()
    value = hashlib.blake2b(said, digest_size=MARK).digest()
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
        """For each mark, whether it is that of the picture's last success."""
        pipe = self._redis.pipeline(transaction=False)
        for mark in marks:
            pipe.hget(self._keys.seen_objects(schedule_id, mark.part), mark.field)
        return [found == mark.value for found, mark in zip(pipe.execute(), marks, strict=True)]

    def record(self, schedule_id: str, marks: Iterable[Mark]) -> None:
        """These have succeeded. Doing it again changes nothing."""
        pipe = self._redis.pipeline(transaction=False)
        for mark in marks:
            pipe.hset(self._keys.seen_objects(schedule_id, mark.part), mark.field, mark.value)
        pipe.execute()

    def forget(self, schedule_id: str) -> None:
        """All marks of a schedule."""
        for first in range(0, PARTS, 1024):
            names: Any = [self._keys.seen_objects(schedule_id, part) for part in range(first, first + 1024)]
            self._redis.unlink(*names)
