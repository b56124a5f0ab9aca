"""The background tasks of batches and schedules: `ingest`, `sweep`, `run`, `rollback` and `results`."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog
from celery import Celery
from celery.exceptions import Ignore, Retry
from redis import Redis
from redis.exceptions import RedisError
from structlog.contextvars import bound_contextvars

from jobs.batches.commands import Batches
from jobs.batches.ingest import Ingest
from jobs.batches.manifests.columns import ManifestFault
from jobs.batches.results.writer import ResultWriter
from jobs.batches.rollback import Rollbacks
from jobs.foundation.errors import NotFound, Unavailable
from jobs.foundation.redis_keys import Keys
from jobs.queueing.background_tasks import BackgroundTasks, LeaseLost, Postponed, TaskKind, TaskLease
from jobs.queueing.publisher import TaskPublisher
from jobs.schedules.run_to_batch import RunToBatch
from jobs.storage.bucket import Bucket
from workers.background.download_manifest import ManifestUnavailable, download_manifest
from workers.net.http import Http

POLL_S = 2.0
"""How often each worker publishes the tasks that are due, in seconds; the broker may have lost their messages."""
BUCKET_PAUSE_S = 5.0
WEB_PAUSE_S = 30.0

THROWS = (LeaseLost, ManifestFault)
"""Exceptions that end a task and are no fault of Retouch."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class BatchWork:
    """What each kind of task does to its batch or run.

    Attributes:
        batches: their records.
        bucket: where manifests are.
        http: downloads manifests.
        ingest: reads manifests into jobs.
        runs: makes batches from runs of schedules.
        rollbacks: rolls batches back.
        results: writes the results of ended batches.
        dispatch: starts the jobs that may start.
    """

    batches: Batches
    bucket: Bucket
    http: Http
    ingest: Ingest
    runs: RunToBatch
    rollbacks: Rollbacks
    results: ResultWriter
    dispatch: Callable[[], object]

    def read_manifest(self, batch_id: str, held: TaskLease) -> None:
        """Read a batch's manifest into jobs.

        Raises:
            Postponed: the server of the manifest, or a quota, allows it later.
            ManifestFault: the manifest cannot be read, or not to its end.
            LeaseLost: another worker reads it now.
        """
        reading = self.ingest.open(batch_id, held)
        if reading is None:
            return
        record = reading.record
        if record["source"] == "web":
            try:
                download_manifest(self.bucket, self.http, batch_id, record["tenant"], record["manifest"])
            except ManifestUnavailable as error:
                held.postpone(WEB_PAUSE_S, str(error))
            except ManifestFault as fault:
                reading.fail(fault)
        reading.run()

    def sweep(self, batch_id: str, held: TaskLease) -> None:
        """Cancel or retry the jobs of a batch that was canceled or retried.

        Raises:
            LeaseLost: another worker does so now.
        """
        while self.batches.sweep(batch_id, held.number) == 0:
            held.check()
            self.dispatch()
        self.dispatch()

    def write_results(self, batch_id: str, held: TaskLease) -> None:
        """Write the results of an ended batch into the bucket.

        Raises:
            LeaseLost: another worker does so now.
        """
        tenant = self.batches.record(batch_id).get("tenant")
        if tenant is None:
            return
        try:
            self.results.write(self.batches.get(tenant, batch_id), held)
        except NotFound:
            log.info("background_task.batch_gone", batch_id=batch_id)


class BackgroundTaskRunner:
    """Runs background tasks; one object serves all threads of a worker. What a task writes is fenced.

    Args:
        tasks: claims tasks.
        publisher: publishes the tasks that are due.
        work: what the tasks do.
        redis: a client of the store.
        keys: names of the keys.
    """

    def __init__(
        self, tasks: BackgroundTasks, publisher: TaskPublisher, work: BatchWork, redis: Redis, keys: Keys
    ) -> None:
        self._tasks = tasks
        self._publisher = publisher
        self._redis = redis
        self._keys = keys
        self._work: dict[TaskKind, Callable[[str, TaskLease], object]] = {
            TaskKind.INGEST: work.read_manifest,
            TaskKind.SWEEP: work.sweep,
            TaskKind.RUN: work.runs.work_on,
            TaskKind.ROLLBACK: work.rollbacks.run,
            TaskKind.RESULTS: work.write_results,
        }

    def run(self, kind: TaskKind, batch_id: str) -> str:
        """Run a task if it is due. Flower shows what this raises.

        Args:
            kind: of the task.
            batch_id: a batch's id; a run's id for `TaskKind.RUN`.

        Raises:
            Retry: the task cannot continue now, and is due again soon.
            Ignore: another worker runs the task, or it is done.
            LeaseLost: another worker has taken the task over.
            ManifestFault: the manifest cannot be read, or not to its end.
        """
        with self._tasks.hold(kind, batch_id) as held:
            if held is None:
                # Flower shows all messages of a task as one: the message that runs the task reports its result.
                raise Ignore("dropped: another worker runs this task, or it is done")
            with bound_contextvars(kind=kind, batch_id=batch_id, **self._owner(batch_id)):
                self._attempt(kind, batch_id, held)
        self._publisher.publish_due()
        return "done"

    def _owner(self, batch_id: str) -> dict[str, str]:
        """The tenant of a batch or run, for the log; the task runs without it, too."""
        with suppress(RedisError):
            if tenant := self._redis.hget(self._keys.batch(batch_id), "tenant"):
                return {"tenant": str(tenant)}
        return {}

    def _attempt(self, kind: TaskKind, batch_id: str, held: TaskLease) -> None:
        log.info("background_task.started", number=held.number)
        try:
            self._do(kind, batch_id, held)
        except Postponed as postponed:
            log.info("background_task.postponed", why=str(postponed))
            raise Retry(str(postponed), exc=postponed) from postponed
        except RedisError as error:
            # The task's lease ends by itself; then the task is due again.
            log.warning("background_task.store_unreachable", error=str(error))
            raise Retry(str(error), exc=error) from error
        except ManifestFault as fault:
            log.info("background_task.failed", why=str(fault))
            self._publisher.publish_due()
            raise
        log.info("background_task.ended")

    def _do(self, kind: TaskKind, batch_id: str, held: TaskLease) -> None:
        try:
            self._work[kind](batch_id, held)
        except Unavailable:
            held.postpone(BUCKET_PAUSE_S, "the bucket does not answer")


def register_background_tasks(app: Celery, tasks: BackgroundTaskRunner) -> None:
    """Register one task for each kind with a worker's app."""
    for kind in TaskKind:
        app.task(name=kind.value, throws=THROWS, shared=False)(_function(tasks, kind))


def _function(tasks: BackgroundTaskRunner, kind: TaskKind) -> Callable[[str], str]:
    def run(batch_id: str) -> str:
        return tasks.run(kind, batch_id)

    return run
