"""Work on whole batches in the background: reading manifests, sweeping jobs, writing results.

A chore is due until it is done. Whoever looks publishes what is due; a worker that takes one up holds it by a lease,
renews that, and the number of its claim fences all it writes. So a lost message or a killed worker costs time alone.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import NoReturn

import structlog
from redis.exceptions import RedisError

from jobs.foundation.redis_keys import Keys
from jobs.plan.script_runner import ScriptRunner

LEASE_S = 15.0
RENEW_S = 4.0
MOST_AT_ONCE = 50

log = structlog.get_logger(__name__)


class Kind(StrEnum):
    """What there is to do; each is a task of the same name."""

    INGEST = "ingest"
    """Read a manifest."""
    SWEEP = "sweep"
    """Let the jobs of a canceled or retried batch follow."""
    RESULTS = "results"
    """Write an ended batch's record into the bucket."""
    RUN = "run"
    """Make the batch of a schedule's run, or take note of its end."""
    ROLLBACK = "rollback"
    """Point a batch's output keys back to the versions before."""


class Lost(Exception):
    """Another worker has taken the chore over."""


class PutOff(Exception):
    """A chore cannot go on now; it is due again by itself."""


class Held:
    """A chore that this process holds.

    Attributes:
        number: of the claim.
    """

    def __init__(self, chores: "Chores", kind: Kind, batch_id: str, number: int) -> None:
        self.number = number
        self._chores = chores
        self._kind = kind
        self._batch_id = batch_id
        self._lost = threading.Event()
        self._done = threading.Event()

    def check(self) -> None:
        """Go on, or not.

        Raises:
            Lost: the chore is another's by now.
        """
        if self._lost.is_set():
            raise Lost(f"{self._kind} of {self._batch_id} is another worker's by now")

    def put_off(self, seconds: float, why: str) -> NoReturn:
        """Let go of it until it may go on.

        Args:
            seconds: until it is due again.
            why: for people.

        Raises:
            PutOff: always.
        """
        self._done.set()
        self._chores.renew(self._kind, self._batch_id, self.number, seconds, put_off=True, why=why)
        raise PutOff(why)

    def beat(self) -> None:
        """Renew the lease until the chore is done or lost."""
        while not self._done.wait(RENEW_S):
            try:
                if not self._chores.renew(self._kind, self._batch_id, self.number, self._chores.lease_s):
                    self._lost.set()
                    return
            except RedisError as error:
                log.warning("chore.unheard", kind=self._kind, batch_id=self._batch_id, error=str(error))

    def end(self) -> None:
        """Stop renewing."""
        self._done.set()


class Chores:
    """What is to be done for batches, and who does it.

    Args:
        scripts: runs the scripts.
        keys: names of the keys.
        lease_s: how long a chore is held without a beat, in seconds.
    """

    def __init__(self, scripts: ScriptRunner, keys: Keys, *, lease_s: float = LEASE_S) -> None:
        self._scripts = scripts
        self._keys = keys
        self.lease_s = lease_s

    def due(self) -> list[tuple[Kind, str]]:
        """What is to be published now: kind and batch id. It is due again after a lease's time."""
        found = self._scripts.run(
            "background/list_due", [self._keys.background_tasks], [int(self.lease_s * 1000), MOST_AT_ONCE]
        )
        split = (member.split(" ", 1) for member in found)
        return [(Kind(kind), self._keys.id_of(key)) for kind, key in split]

    @contextmanager
    def hold(self, kind: Kind, batch_id: str) -> Iterator[Held | None]:
        """Take up a chore and renew its lease; None where there is nothing to do or another holds it."""
        number = self._scripts.run(
            "background/claim",
            [self._keys.background_tasks, self._keys.batch(batch_id)],
            [kind, int(self.lease_s * 1000)],
        )
        if not number:
            yield None
            return
        held = Held(self, kind, batch_id, int(number))
        threading.Thread(target=held.beat, name=f"{kind} {batch_id}", daemon=True).start()
        try:
            yield held
        finally:
            held.end()

    def renew(
        self, kind: Kind, batch_id: str, number: int, seconds: float, *, put_off: bool = False, why: str = ""
    ) -> bool:
        """Keep a chore for so many seconds, or put it off for them; False where it is another's."""
        keys = [self._keys.background_tasks, self._keys.batch(batch_id)]
        args = [kind, number, int(seconds * 1000), "1" if put_off else "0", why]
        return bool(self._scripts.run("background/renew", keys, args))
