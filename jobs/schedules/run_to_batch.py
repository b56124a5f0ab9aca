"""From a run's record to its batch, and from the batch's end back to the record. Any worker may go on at any point."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import structlog

from jobs.batches.commands import Batches
from jobs.batches.models import ENDED, BatchOptions, BatchRequest, BatchState
from jobs.batches.progress import counts_of
from jobs.batches.submission import BatchSubmission
from jobs.foundation.errors import Conflict, InvalidInput, NotFound, Unavailable
from jobs.foundation.redis_keys import Keys
from jobs.foundation.values import moment
from jobs.queueing.background_tasks import TaskLease
from jobs.schedules.changed_objects import ChangedObjects, ListingResult
from jobs.schedules.models import RunState, ScheduleTemplate, batch_id_of
from jobs.schedules.runs import Runs
from jobs.schedules.schedules import Schedules
from jobs.storage.bucket import Bucket
from jobs.storage.object_keys import manifest_key, parse_s3_url

PATIENCE_S = 3600.0
"""A run whose batch cannot be made for so long has failed."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RunToBatch:
    """Makes the batches of runs, and records their ends. Safe in any number of threads at once.

    Attributes:
        keys: names of the keys.
        runs: records of the runs.
        schedules: records of the schedules.
        batches: records of the batches.
        batch_submission: begins batches.
        bucket: where manifests are.
        changed: finds what is new or changed under a prefix.
    """

    keys: Keys
    runs: Runs
    schedules: Schedules
    batches: Batches
    batch_submission: BatchSubmission
    bucket: Bucket
    changed: ChangedObjects

    def work_on(self, run_id: str, held: TaskLease) -> None:
        """Do what is due for a run: make its batch, cancel it, or record its end.

        Args:
            run_id: the run.
            held: the chore; its number fences what is written.

        Raises:
            jobs.queueing.background_tasks.LeaseLost: another worker has the run by now.
            Unavailable, redis.exceptions.RedisError: a store does not answer.
        """
        record = self.runs.record(run_id)
        if "state" in record:
            _Work(self, run_id, record, held).do()


class _Work:
    """One run in one worker's hands."""

    def __init__(self, parts: RunToBatch, run_id: str, record: Mapping[str, str], held: TaskLease) -> None:
        self._parts = parts
        self._run_id = run_id
        self._record = record
        self._held = held
        self._tenant = record["tenant"]
        self._schedule_id = parts.keys.id_of(record["schedule"])
        self._batch_id = record.get("batch") or batch_id_of(run_id, int(float(record["made"])))

    def do(self) -> None:
        if self._record["state"] != RunState.DUE:
            self._look()
        elif "cancel" in self._record:
            self._turn(RunState.CANCELED, reason="a later run took its place")
        else:
            self._make()

    def _make(self) -> None:
        try:
            template, schedule = self._parts.schedules.read(self._tenant, self._schedule_id)
        except NotFound:
            log.info("run.schedule_gone", run_id=self._run_id)
            return
        try:
            taken = self._begin(template, schedule)
        except (InvalidInput, NotFound) as error:
            self._turn(RunState.FAILED, reason=str(error))
            return
        except Unavailable as error:
            if self._parts.schedules.now() - moment(self._record["made"]) < timedelta(seconds=PATIENCE_S):
                raise
            self._turn(RunState.FAILED, reason=f"its batch could not be made for an hour: {error}")
            return
        told = {"listed": str(taken.listed), "unchanged": str(taken.listed - taken.changed)} if taken else {}
        if taken is not None and taken.changed == 0:
            self._turn(RunState.UNCHANGED, **told)
        else:
            self._turn(RunState.RUNNING, batch=self._batch_id, **told)
            log.info("run.begun", run_id=self._run_id, batch_id=self._batch_id, **told)

    def _begin(self, template: ScheduleTemplate, schedule: Mapping[str, str]) -> ListingResult | None:
        """Write the batch, unless there is nothing to do; once, however often it is called."""
        parts, batch_id = self._parts, self._batch_id
        known = parts.batches.record(batch_id)
        if known:
            return ListingResult(int(known["listed"]), int(known["changed"])) if "listed" in known else None
        options = options_of(template)
        more = {
            "run": parts.keys.run(self._run_id),
            "run_id": self._run_id,
            "schedule_id": self._schedule_id,
        }
        taken = None
        if template.is_prefix and template.only_changed:
            taken = parts.changed.save_changed(
                template,
                schedule_id=self._schedule_id,
                tenant=self._tenant,
                batch_id=batch_id,
                check=self._held.check,
            )
            if taken.changed == 0:
                return taken
            more |= {"listed": str(taken.listed), "changed": str(taken.changed), "given": template.manifest or ""}
        elif template.manifest is None:
            parts.bucket.copy(*parse_s3_url(schedule["items"]), parts.bucket.name, manifest_key(self._tenant, batch_id))
        else:
            options = BatchRequest.model_validate({**dict(options), "manifest": template.manifest})
        self._held.check()
        saved = not isinstance(options, BatchRequest)
        parts.batch_submission.begin(options, tenant=self._tenant, batch_id=batch_id, saved=saved, more=more)
        return taken

    def _look(self) -> None:
        """See how the batch is."""
        batch = self._parts.batches.record(self._batch_id)
        if "cancel" in self._record and batch and batch["state"] not in ENDED:
            try:
                self._parts.batches.cancel(self._tenant, self._batch_id)
            except (Conflict, NotFound) as error:
                log.info("run.not_canceled", run_id=self._run_id, why=str(error))
            batch = self._parts.batches.record(self._batch_id)
        if not batch:
            self._turn(RunState.FAILED, reason="its batch is gone")
        elif batch["state"] not in ENDED:
            self._turn(None)
        else:
            self._close(batch)

    def _close(self, batch: Mapping[str, str]) -> None:
        if "listed" in batch:
            self._parts.changed.record_successes(
                schedule_id=self._schedule_id,
                tenant=self._tenant,
                batch_id=self._batch_id,
                check=self._held.check,
            )
        state = {BatchState.FAILED: RunState.FAILED, BatchState.CANCELED: RunState.CANCELED}.get(
            BatchState(batch["state"]), RunState.COMPLETED
        )
        reason = batch.get("reason") or ("a later run took its place" if "cancel" in self._record else "")
        self._turn(
            state,
            seen=batch.get("finished", ""),
            counts=counts_of(batch).model_dump_json(exclude_defaults=True),
            cost=batch.get("cost", "0"),
            **({"reason": reason} if reason else {}),
        )
        log.info("run.ended", run_id=self._run_id, batch_id=self._batch_id, state=state)

    def _turn(self, state: RunState | None, *, seen: str = "", **fields: str) -> None:
        said = {**fields, **({"state": str(state)} if state else {})}
        self._parts.runs.turn(
            self._run_id,
            self._held.number,
            said,
            schedule_id=self._schedule_id,
            batch_id=self._batch_id,
            seen=seen,
        )


def options_of(template: ScheduleTemplate) -> BatchOptions:
    """What the batch of a run is told; it takes over equal edits unless the schedule says otherwise."""
    options = BatchOptions(**{name: getattr(template, name) for name in BatchOptions.model_fields})
    if options.defaults.reuse is not None:
        return options
    return options.model_copy(update={"defaults": options.defaults.model_copy(update={"reuse": True})})
