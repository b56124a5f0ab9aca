"""The task of a message: claim the attempt, run it, and tell whoever listens how it went."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import structlog
from celery import Celery
from celery.exceptions import Ignore, Retry

from jobs.foundation.errors import EditFailure
from jobs.foundation.job_states import State
from jobs.queueing.celery_app import EDIT
from jobs.wiring import Domain
from workers.edits.active_attempts import Held
from workers.edits.attempt import Attempt, Ended, insist
from workers.edits.fetch_input import InputFetcher
from workers.edits.reuse import Reusing
from workers.net.http import Http
from workers.process.timings import Listener, names_of


class Editor:
    """Runs attempts; one object serves all threads of a worker.

    Args:
        domain: what the process works with.
        held: the attempts the worker holds.
        worker: the worker's name.
        listeners: told of each attempt once it has ended.
    """

    def __init__(self, domain: Domain, held: Held, worker: str, *, listeners: Sequence[Listener] = ()) -> None:
        self._domain = domain
        self._held = held
        self._worker = worker
        self._listeners = tuple(listeners)
        self._http = Http(domain.settings.private_networks)
        self._reusing = Reusing(domain, InputFetcher(self._http, domain.bucket, domain.settings))

    def edit(self, job_id: str, attempt: int) -> Ended | None:
        """Run one attempt to its settlement; None where the message was to be dropped."""
        claim = insist(self._held, lambda: self._domain.planner.claim(job_id, attempt, self._worker))
        if claim is None:
            return None
        self._held.take(claim)
        given = claim.spec.traceparent
        spans = self._domain.spans
        spans.lasted("plan", claim.queued_at, claim.claimed_at, parent=given)
        try:
            with (
                structlog.contextvars.bound_contextvars(**names_of(claim)),
                spans.span("edit", parent=given, job_id=job_id, attempt=attempt),
            ):
                one = Attempt(self._domain, self._held, self._http, self._reusing, claim)
                ended = one.run()
                report = one.report(ended)
                for listener in self._listeners:
                    listener(report)
                return ended
        finally:
            self._held.let_go(claim)


def register_edit(app: Celery, editor: Editor) -> None:
    """Make the task `edit` known to a worker's app."""

    @app.task(name=EDIT, throws=(EditFailure,))
    def edit(job_id: str, attempt: int) -> str:
        """One attempt of a job. It raises where the edit failed, so that Flower shows what was."""
        return told_to_celery(editor.edit(job_id, attempt))


def told_to_celery(ended: Ended | None) -> str:
    """What Celery is to make of an attempt: SUCCESS by returning, RETRY, FAILURE or nothing by raising.

    Raises:
        Retry: the job will be tried again. It publishes nothing.
        Ignore: this message was not the one to do it, or came too late.
        EditFailure: the job has failed or was filtered.
    """
    if ended is None or not ended.written:
        # Flower knows all messages of a job as one task: the one that does it tells how it went.
        raise Ignore("dropped: the job has moved on")
    settlement = ended.settlement
    if settlement.to is State.SUCCEEDED:
        return settlement.outcome
    if ended.failure is not None and settlement.to in {State.FAILED, State.FILTERED}:
        raise ended.failure
    raise Retry(
        settlement.message, exc=ended.failure, when=datetime.now(UTC) + timedelta(milliseconds=settlement.delay_ms)
    )
