"""Creates the batches of runs and records their ends. Any worker can continue after any step."""

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

BATCH_TIMEOUT_S = 3600.0
"""A run fails if its batch cannot be created within this time."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RunToBatch:
    """Creates the batches of runs, and records their ends. Safe in any number of threads at once.

    Attributes:
        keys: names of the keys.
        runs: records of the runs.
        schedules: records of the schedules.
        batches: records of the batches.
        batch_submission: begins batches.
        bucket: of the manifests.
        changed: finds new and changed pictures under a prefix.
    """

    keys: Keys
    runs: Runs
    schedules: Schedules
    batches: Batches
    batch_submission: BatchSubmission
    bucket: Bucket
    changed: ChangedObjects

    def work_on(self, run_id: str, lease: TaskLease) -> None:
        """Do the next step of a run: create its batch, cancel it, or record its end.

        Args:
            run_id: the run.
            lease: of the background task; its number fences every write.

        Raises:
            jobs.queueing.background_tasks.LeaseLost: another worker has claimed the run.
            Unavailable, redis.exceptions.RedisError: a store does not answer.
        """
        record = self.runs.record(run_id)
        if "state" in record:
            _RunStep(self, run_id, record, lease).do()


class _RunStep:
    """The next step of one run in one worker."""

    def __init__(self, parts: RunToBatch, run_id: str, record: Mapping[str, str], lease: TaskLease) -> None:
        self._parts = parts
        self._run_id = run_id
        self._record = record
        self._lease = lease
        self._tenant = record["tenant"]
        self._schedule_id = parts.keys.id_of(record["schedule"])
        self._batch_id = record.get("batch") or batch_id_of(run_id, int(float(record["made"])))

    def do(self) -> None:
        if self._record["state"] != RunState.DUE:
            self._check_batch()
        elif "cancel" in self._record:
            self._update(RunState.CANCELED, reason="a later run replaced it")
        else:
            self._create_batch()

    def _create_batch(self) -> None:
        try:
            template, schedule = self._parts.schedules.read(self._tenant, self._schedule_id)
        except NotFound:
            log.info("run.schedule_gone", run_id=self._run_id)
            return
        try:
            listing = self._begin(template, schedule)
        except (InvalidInput, NotFound) as error:
            self._update(RunState.FAILED, reason=str(error))
            return
        except Unavailable as error:
            if self._parts.schedules.now() - moment(self._record["made"]) < timedelta(seconds=BATCH_TIMEOUT_S):
                raise
            self._update(RunState.FAILED, reason=f"its batch could not be created for an hour: {error}")
            return
        fields = {"listed": str(listing.listed), "unchanged": str(listing.listed - listing.changed)} if listing else {}
        if listing is not None and listing.changed == 0:
            self._update(RunState.UNCHANGED, **fields)
        else:
            self._update(RunState.RUNNING, batch=self._batch_id, **fields)
            log.info("run.begun", run_id=self._run_id, batch_id=self._batch_id, **fields)

    def _begin(self, template: ScheduleTemplate, schedule: Mapping[str, str]) -> ListingResult | None:
        """Write the batch, unless no picture has changed. A second call writes no other batch."""
        parts, batch_id = self._parts, self._batch_id
        batch = parts.batches.record(batch_id)
        if batch:
            return ListingResult(int(batch["listed"]), int(batch["changed"])) if "listed" in batch else None
        options = options_of(template)
        more = {
            "run": parts.keys.run(self._run_id),
            "run_id": self._run_id,
            "schedule_id": self._schedule_id,
        }
        listing = None
        if template.is_prefix and template.only_changed:
            listing = parts.changed.save_changed(
                template,
                schedule_id=self._schedule_id,
                tenant=self._tenant,
                batch_id=batch_id,
                check=self._lease.check,
            )
            if listing.changed == 0:
                return listing
            more |= {"listed": str(listing.listed), "changed": str(listing.changed), "given": template.manifest or ""}
        elif template.manifest is None:
            parts.bucket.copy(*parse_s3_url(schedule["items"]), parts.bucket.name, manifest_key(self._tenant, batch_id))
        else:
            options = BatchRequest.model_validate({**dict(options), "manifest": template.manifest})
        self._lease.check()
        saved = not isinstance(options, BatchRequest)
        parts.batch_submission.begin(options, tenant=self._tenant, batch_id=batch_id, saved=saved, more=more)
        return listing

    def _check_batch(self) -> None:
        """Cancel the batch if requested, and record its end."""
        batch = self._parts.batches.record(self._batch_id)
        if "cancel" in self._record and batch and batch["state"] not in ENDED:
            try:
                self._parts.batches.cancel(self._tenant, self._batch_id)
            except (Conflict, NotFound) as error:
                log.info("run.not_canceled", run_id=self._run_id, error=str(error))
            batch = self._parts.batches.record(self._batch_id)
        if not batch:
            self._update(RunState.FAILED, reason="its batch is gone")
        elif batch["state"] not in ENDED:
            self._update(None)
        else:
            self._close(batch)

    def _close(self, batch: Mapping[str, str]) -> None:
        if "listed" in batch:
            self._parts.changed.record_successes(
                schedule_id=self._schedule_id,
                tenant=self._tenant,
                batch_id=self._batch_id,
                check=self._lease.check,
            )
        state = {BatchState.FAILED: RunState.FAILED, BatchState.CANCELED: RunState.CANCELED}.get(
            BatchState(batch["state"]), RunState.COMPLETED
        )
        reason = batch.get("reason") or ("a later run replaced it" if "cancel" in self._record else "")
        self._update(
            state,
            seen=batch.get("finished", ""),
            counts=counts_of(batch).model_dump_json(exclude_defaults=True),
            cost=batch.get("cost", "0"),
            **({"reason": reason} if reason else {}),
        )
        log.info("run.ended", run_id=self._run_id, batch_id=self._batch_id, state=state)

    def _update(self, state: RunState | None, *, seen: str = "", **fields: str) -> None:
        self._parts.runs.update(
            self._run_id,
            self._lease.number,
            {**fields, **({"state": str(state)} if state else {})},
            schedule_id=self._schedule_id,
            batch_id=self._batch_id,
            seen=seen,
        )


def options_of(template: ScheduleTemplate) -> BatchOptions:
    """The options of a run's batch. It reuses results of equal edits unless the schedule sets `reuse`."""
    options = BatchOptions(**{name: getattr(template, name) for name in BatchOptions.model_fields})
    if options.defaults.reuse is not None:
        return options
    return options.model_copy(update={"defaults": options.defaults.model_copy(update={"reuse": True})})
