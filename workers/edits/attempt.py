"""One attempt: prepare, call, handle success or failure, settle.

`jobs.plan.retry_decision` decides what follows from a failure; the attempt's number fences every write.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import structlog
from redis.exceptions import RedisError

from jobs.catalogue.catalogue import ModelSpec
from jobs.foundation.errors import (
    DeadlineExceeded,
    EditFailure,
    InputRejected,
    InvalidInput,
    StorageFailed,
    Transient,
    Unavailable,
)
from jobs.plan.records import Claim
from jobs.plan.retry_decision import History, decide
from jobs.plan.settlement import OK, Settlement
from jobs.records.job_models import Checkpoint
from workers.edits.attempt_results import Ended, Failed, Progress, ReadyToCall, Stored
from workers.edits.attempt_steps import AttemptSteps, ServerClock, StepTools, price_micro_usd
from workers.process.timings import AttemptReport, Stopwatch, answer_class

R = TypeVar("R")
log = structlog.get_logger(__name__)


class AttemptRun:
    """One attempt that a worker has claimed; `run` goes through its steps once.

    Args:
        tools: what the steps use.
        model: edits the picture.
        claim: the attempt.
    """

    def __init__(self, tools: StepTools, model: ModelSpec, claim: Claim) -> None:
        self._tools = tools
        self._model = model
        self._claim = claim
        self._clock = ServerClock(claim.claimed_at)
        self._watch = Stopwatch(tools.spans)
        self._steps = AttemptSteps(tools, model, self._clock, self._watch)

    def run(self) -> Ended:
        """Go through the steps, and settle whatever comes of them.

        Raises:
            RedisError: the store is down and the worker must stop: the attempt's lease ends by itself.
        """
        result = self._edit()
        settlement = self._settlement(result)
        ended = Ended(result, settlement, self._settle(result, settlement))
        self._log(ended)
        return ended

    def _edit(self) -> Stored | Failed:
        claim, start = self._claim, Progress(self._claim)
        if claim.deadline is not None and self._clock.now() >= claim.deadline:
            return Failed(start, DeadlineExceeded("its deadline passed before it could be edited"))
        if claim.checkpoint is not None:
            return self._resume(start, claim.checkpoint)
        prepared = self._prepare(start)
        return self._buy(prepared) if isinstance(prepared, ReadyToCall) else prepared

    def _resume(self, start: Progress, checkpoint: Checkpoint) -> Stored | Failed:
        recorded = replace(start, trace_id=checkpoint.trace_id)
        return _guarded(recorded, lambda: self._steps.resume(recorded, checkpoint))

    def _prepare(self, start: Progress) -> ReadyToCall | Stored | Failed:
        """Obtain the input; an equal edit's output is copied, and then no call is needed."""
        obtained = _guarded(start, lambda: self._steps.obtain_input(start))
        if isinstance(obtained, Failed):
            return obtained
        if obtained.equal is not None:
            known, equal = obtained, obtained.equal
            copied = _guarded(known.progress, lambda: self._steps.copy_equal(known, equal))
            if copied is not None:
                return copied
            obtained = _guarded(known.progress, lambda: self._steps.obtain_input(start, reuse=False))
            if isinstance(obtained, Failed):
                return obtained
        fetched = obtained
        return _guarded(fetched.progress, lambda: self._steps.prepare_call(fetched))

    def _buy(self, ready: ReadyToCall) -> Stored | Failed:
        """Call the provider, and store what it delivers."""
        called = replace(ready.progress, called=True)
        answered = _guarded(called, lambda: self._steps.call(ready))
        if isinstance(answered, Failed):
            return answered
        return _guarded(answered.progress, lambda: self._steps.store_answer(answered))

    def _settlement(self, result: Stored | Failed) -> Settlement:
        called = result.progress.called
        if isinstance(result, Stored):
            signal = OK if called else None
            return Settlement.succeeded(result.output, signal=signal, trace_id=result.progress.trace_id)
        claim = result.progress.claim
        history = History(claim.attempt, claim.tries, self._model.max_attempts, claim.deadline, claim.probe)
        settlement = decide(result.failure, history, self._clock.now(), random.random())  # noqa: S311 - jitter
        return settlement if called else replace(settlement, signal=None)

    def _settle(self, result: Stored | Failed, settlement: Settlement) -> bool:
        """Write the settlement; False where the fence refused it."""
        progress, claim = result.progress, result.progress.claim
        billed = isinstance(result, Failed) and progress.called and result.failure.maybe_billed
        cost = price_micro_usd(self._model) if billed else 0

        def write() -> bool:
            now = self._clock.now()
            entry = None
            if isinstance(result, Stored):
                entry = self._tools.equal_edits.entry(claim, self._model, now)
            return self._tools.planner.settle(claim, settlement, finished_at=now, cost_micro_usd=cost, entry=entry)

        with self._watch.step("settle"):
            return self._tools.active.retry_while_store_down(write)

    def report(self, ended: Ended) -> AttemptReport:
        """What the attempt did, and how long it took."""
        claim, settlement, progress = self._claim, ended.settlement, ended.result.progress
        output = settlement.output
        return AttemptReport(
            model=self._model.name,
            priority=claim.spec.priority,
            outcome=settlement.outcome,
            written=ended.written,
            queued_s=max(0.0, (claim.claimed_at - claim.queued_at).total_seconds()),
            took_s=self._clock.passed_s,
            steps=self._watch.steps,
            answer=answer_class(ended.failure, called=progress.called, answered=progress.answered),
            fetched_bytes=progress.fetched_bytes,
            kept_bytes=output.bytes if output and not output.reused else 0,
        )

    def _log(self, ended: Ended) -> None:
        log.info(
            "edit.settled",
            outcome=ended.settlement.outcome,
            written=ended.written,
            message=ended.settlement.message,
            provider_trace_id=ended.result.progress.trace_id,
            seconds=round(self._clock.passed_s, 3),
            steps={step: round(seconds, 3) for step, seconds in self._watch.steps.items()},
        )


def _guarded(progress: Progress, step: Callable[[], R]) -> R | Failed:
    """Run a step; what goes wrong becomes a failure that knows how far the attempt had come.

    Raises:
        RedisError: the store is down and the worker must stop.
    """
    failure: EditFailure
    try:
        return step()
    except EditFailure as error:
        failure = error
    except RedisError:
        raise
    except Unavailable as error:
        failure = StorageFailed(str(error))
    except InvalidInput as error:
        failure = InputRejected(str(error))
    except Exception as error:
        log.exception("edit.unexpected")
        failure = Transient(f"unexpected {type(error).__name__} in the worker", code="internal_error")
    return Failed(progress, failure)
