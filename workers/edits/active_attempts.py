"""The attempts a worker holds, and whether they may go on."""

import threading
from collections.abc import Iterable

from jobs.foundation.errors import Interrupted
from jobs.plan.records import Claim, Dispatch


class Held:
    """Shared by the threads that edit and the pulse that renews their leases."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[Dispatch, Claim] = {}
        self._lost: set[Dispatch] = set()
        self._calling: set[Dispatch] = set()
        self._interrupted = threading.Event()
        self.changed = threading.Event()
        """Set when an attempt ended: there may be room for another."""

    def take(self, claim: Claim) -> None:
        """An attempt begins."""
        with self._lock:
            self._claims[Dispatch(claim.job_id, claim.attempt)] = claim

    def let_go(self, claim: Claim) -> None:
        """An attempt has ended."""
        one = Dispatch(claim.job_id, claim.attempt)
        with self._lock:
            self._claims.pop(one, None)
            self._lost.discard(one)
            self._calling.discard(one)
        self.changed.set()

    def calling(self, claim: Claim) -> None:
        """The attempt's call, which may be billed, goes out."""
        with self._lock:
            self._calling.add(Dispatch(claim.job_id, claim.attempt))

    def has_called(self, claim: Claim) -> bool:
        """Whether the attempt's call has gone out."""
        return Dispatch(claim.job_id, claim.attempt) in self._calling

    def claims(self) -> list[Claim]:
        """The attempts held now."""
        with self._lock:
            return list(self._claims.values())

    def mark_lost(self, lost: Iterable[Dispatch]) -> None:
        """These are no longer ours: their leases are gone or their jobs were canceled."""
        with self._lock:
            self._lost.update(one for one in lost if one in self._claims)

    def is_lost(self, claim: Claim) -> bool:
        """Whether this attempt is no longer ours."""
        return Dispatch(claim.job_id, claim.attempt) in self._lost

    def interrupt(self) -> None:
        """The worker must stop: every attempt ends at its next step."""
        self._interrupted.set()

    @property
    def interrupted(self) -> bool:
        """Whether the worker must stop."""
        return self._interrupted.is_set()

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than until the worker must stop."""
        self._interrupted.wait(seconds)

    def check(self, claim: Claim) -> None:
        """Between two steps of an attempt: go on, or not.

        Raises:
            Interrupted: the attempt is lost, its job was canceled, or the worker must stop.
        """
        if self.is_lost(claim):
            raise Interrupted("the job was canceled, or its lease was lost", code="lease_lost")
        if self.interrupted:
            raise Interrupted("the worker was stopped before the job was done")
