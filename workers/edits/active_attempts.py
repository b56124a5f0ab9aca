"""The attempts that a worker runs now, and whether each may continue."""

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from jobs.foundation.errors import Interrupted
from jobs.plan.records import Claim, Dispatch
from workers.process.store_retry import retry_while_store_down

T = TypeVar("T")


class ActiveAttempts:
    """Shared by the threads that edit and by the heartbeat that renews their leases."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[Dispatch, Claim] = {}
        self._lost: set[Dispatch] = set()
        self._calling: set[Dispatch] = set()
        self._interrupted = threading.Event()
        self.changed = threading.Event()
        """Set when an attempt has ended: the plan may have room for another."""

    def add(self, claim: Claim) -> None:
        """An attempt starts."""
        with self._lock:
            self._claims[_key(claim)] = claim

    def remove(self, claim: Claim) -> None:
        """An attempt has ended."""
        key = _key(claim)
        with self._lock:
            self._claims.pop(key, None)
            self._lost.discard(key)
            self._calling.discard(key)
        self.changed.set()

    def set_calling(self, claim: Claim) -> None:
        """The attempt's call of the provider starts; from now on it may be billed."""
        with self._lock:
            self._calling.add(_key(claim))

    def has_called(self, claim: Claim) -> bool:
        """Whether the attempt's call of the provider has started."""
        return _key(claim) in self._calling

    def claims(self) -> list[Claim]:
        """The attempts that run now."""
        with self._lock:
            return list(self._claims.values())

    def mark_lost(self, lost: Iterable[Dispatch]) -> None:
        """The worker no longer holds these: their leases have ended, or their jobs were canceled."""
        with self._lock:
            self._lost.update(dispatch for dispatch in lost if dispatch in self._claims)

    def is_lost(self, claim: Claim) -> bool:
        """Whether the worker no longer holds this attempt."""
        return _key(claim) in self._lost

    def interrupt(self) -> None:
        """The worker must stop: every attempt ends at its next step."""
        self._interrupted.set()

    @property
    def interrupted(self) -> bool:
        """Whether the worker must stop."""
        return self._interrupted.is_set()

    def must_stop(self, claim: Claim) -> bool:
        """Whether an attempt must end at its next step."""
        return self.interrupted or self.is_lost(claim)

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than until the worker must stop."""
        self._interrupted.wait(seconds)

    def check(self, claim: Claim) -> None:
        """Stop an attempt between two steps where it must not continue.

        Raises:
            Interrupted: the attempt is lost, its job was canceled, or the worker must stop.
        """
        if self.is_lost(claim):
            raise Interrupted("the job was canceled, or its lease was lost", code="lease_lost")
        if self.interrupted:
            raise Interrupted("the worker was stopped before the job was done")

    def retry_while_store_down(self, step: Callable[[], T]) -> T:
        """Repeat a step that needs the store until the store answers.

        Raises:
            RedisError: the store is down and the worker must stop.
        """
        return retry_while_store_down(step, pause=self.pause, give_up=lambda: self.interrupted)


def _key(claim: Claim) -> Dispatch:
    return Dispatch(claim.job_id, claim.attempt)
