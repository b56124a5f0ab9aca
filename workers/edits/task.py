"""The task `edit`: claim the attempt that a message names, run it, and report its end."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import structlog
from celery import Celery
from celery.exceptions import Ignore, Retry

from jobs.catalogue.catalogue import Catalogue
from jobs.foundation.errors import EditFailure
from jobs.foundation.job_states import State
from jobs.queueing.celery_app import EDIT
from workers.edits.attempt import AttemptRun
from workers.edits.attempt_results import Ended
from workers.edits.attempt_steps import StepTools
from workers.process.timings import Listener, names_of


class Editor:
    """Runs attempts; one object serves all threads of a worker.

    Args:
        tools: what the steps of attempts use.
        catalogue: the models.
        worker: the worker's name.
        listeners: called with the report of each attempt that has ended.
    """

    def __init__(
        self, tools: StepTools, catalogue: Catalogue, worker: str, *, listeners: Sequence[Listener] = ()
    ) -> None:
        self._tools = tools
        self._catalogue = catalogue
        self._worker = worker
        self._listeners = tuple(listeners)

    def edit(self, job_id: str, attempt: int) -> Ended | None:
        """Run one attempt to its settlement; None where the message must be dropped.

        Raises:
            redis.exceptions.RedisError: the store is down and the worker must stop.
        """
        active, spans = self._tools.active, self._tools.spans
        claim = active.retry_while_store_down(lambda: self._tools.planner.claim(job_id, attempt, self._worker))
        if claim is None:
            return None
        active.add(claim)
        parent = claim.spec.traceparent
        spans.lasted("plan", claim.queued_at, claim.claimed_at, parent=parent)
        try:
            with (
                structlog.contextvars.bound_contextvars(**names_of(claim)),
                spans.span("edit", parent=parent, job_id=job_id, attempt=attempt),
            ):
                run = AttemptRun(self._tools, self._catalogue.get(claim.spec.model), claim)
                ended = run.run()
                report = run.report(ended)
                for listener in self._listeners:
                    listener(report)
                return ended
        finally:
            active.remove(claim)


def register_edit(app: Celery, editor: Editor) -> None:
    """Register the task `edit` with a worker's app."""

    @app.task(name=EDIT, throws=(EditFailure,))
    def edit(job_id: str, attempt: int) -> str:
        """Run one attempt of a job. A failed edit raises, so that Flower shows the failure."""
        return celery_result(editor.edit(job_id, attempt))


def celery_result(ended: Ended | None) -> str:
    """Translate the end of an attempt for Celery: a return is SUCCESS, an exception RETRY, FAILURE or nothing.

    Raises:
        Retry: the job is tried again. It publishes nothing.
        Ignore: the message was late, or another message runs the job.
        EditFailure: the job has failed or was filtered.
    """
    if ended is None or not ended.written:
        # Flower shows all messages of a job as one task: the message that runs the job reports its result.
        raise Ignore("dropped: the job has moved on")
    settlement = ended.settlement
    if settlement.to is State.SUCCEEDED:
        return settlement.outcome
    if ended.failure is not None and settlement.to in {State.FAILED, State.FILTERED}:
        raise ended.failure
    raise Retry(
        settlement.message, exc=ended.failure, when=datetime.now(UTC) + timedelta(milliseconds=settlement.delay_ms)
    )
