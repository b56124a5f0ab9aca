"""Background tasks: work on whole batches, such as reading a manifest, sweeping jobs or writing results.

A task stays due until it is done. Any process publishes the tasks that are due. A worker claims a task by a lease and
renews the lease; the claim's number fences all that it writes. So a lost message or a killed worker costs only time.
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
MAX_PUBLISHED = 50
"""Tasks that one call of `BackgroundTasks.due` returns at most."""

log = structlog.get_logger(__name__)


class TaskKind(StrEnum):
    """The kinds of background tasks. Each is also the name of a Celery task."""

    INGEST = "ingest"
    """Read a manifest."""
    SWEEP = "sweep"
    """Update the jobs of a canceled or retried batch."""
    RESULTS = "results"
    """Write an ended batch's record into the bucket."""
    RUN = "run"
    """Make the batch of a schedule's run, or record its end."""
    ROLLBACK = "rollback"
    """Point a batch's output keys back to the previous versions."""


class LeaseLost(Exception):
    """Another worker has claimed the task."""


class Postponed(Exception):
    """A task cannot continue now; it becomes due again by itself."""


class TaskLease:
    """The lease of a task that this process works on.

    Attributes:
        number: of the claim.
    """

    def __init__(self, tasks: "BackgroundTasks", kind: TaskKind, batch_id: str, number: int) -> None:
        self.number = number
        self._tasks = tasks
        self._kind = kind
        self._batch_id = batch_id
        self._lost = threading.Event()
        self._done = threading.Event()

    def check(self) -> None:
        """Return while the lease is valid.

        Raises:
            LeaseLost: another worker has claimed the task.
        """
        if self._lost.is_set():
            raise LeaseLost(f"another worker has claimed {self._kind} of {self._batch_id}")

    def postpone(self, seconds: float, reason: str) -> NoReturn:
        """Release the task until it can continue.

        Args:
            seconds: until it is due again.
            reason: a sentence for users.

        Raises:
            Postponed: always.
        """
        self._done.set()
        self._tasks.renew(self._kind, self._batch_id, self.number, seconds, postponed=True, reason=reason)
        raise Postponed(reason)

    def keep_renewing(self) -> None:
        """Renew the lease until the task is done or the lease is lost."""
        while not self._done.wait(RENEW_S):
            try:
                if not self._tasks.renew(self._kind, self._batch_id, self.number, self._tasks.lease_s):
                    self._lost.set()
                    return
            except RedisError as error:
                log.warning("task_lease.not_renewed", kind=self._kind, batch_id=self._batch_id, error=str(error))

    def end(self) -> None:
        """Stop renewing."""
        self._done.set()


class BackgroundTasks:
    """The background tasks of batches and schedule runs, and their leases.

    Args:
        scripts: runs the scripts.
        keys: names of the keys.
        lease_s: how long a lease lives without renewal, in seconds.
    """

    def __init__(self, scripts: ScriptRunner, keys: Keys, *, lease_s: float = LEASE_S) -> None:
        self._scripts = scripts
        self._keys = keys
        self.lease_s = lease_s
        self._lease_ms = int(lease_s * 1000)

    def due(self) -> list[tuple[TaskKind, str]]:
        """The tasks to publish now: kind and id of the batch or run. Each is due again after the time of a lease."""
        keys, args = [self._keys.background_tasks], [self._lease_ms, MAX_PUBLISHED]
        members = (member.split(" ", 1) for member in self._scripts.run("background/list_due", keys, args))
        return [(TaskKind(kind), self._keys.id_of(key)) for kind, key in members]

    @contextmanager
    def hold(self, kind: TaskKind, batch_id: str) -> Iterator[TaskLease | None]:
        """Claim a task and renew its lease; None where there is no such task or another worker holds it."""
        keys = [self._keys.background_tasks, self._keys.batch(batch_id)]
        number = self._scripts.run("background/claim", keys, [kind, self._lease_ms])
        if not number:
            yield None
            return
        lease = TaskLease(self, kind, batch_id, int(number))
        threading.Thread(target=lease.keep_renewing, name=f"{kind} {batch_id}", daemon=True).start()
        try:
            yield lease
        finally:
            lease.end()

    def renew(
        self, kind: TaskKind, batch_id: str, number: int, seconds: float, *, postponed: bool = False, reason: str = ""
    ) -> bool:
        """Hold a task for so many seconds, or postpone it by them; False where another worker has claimed it."""
        keys = [self._keys.background_tasks, self._keys.batch(batch_id)]
        args = [kind, number, int(seconds * 1000), "1" if postponed else "0", reason]
        return bool(self._scripts.run("background/renew", keys, args))
