"""Creates, changes and deletes schedules: checks the request and writes the record."""

import hashlib
import json
from typing import Any

from jobs.batches.submission import BatchSubmission
from jobs.foundation.errors import Conflict, InvalidInput
from jobs.foundation.ids import new_id
from jobs.foundation.input_errors import validated
from jobs.schedules.models import Schedule, ScheduleChange, ScheduleRequest, ScheduleState, ScheduleTemplate
from jobs.schedules.run_to_batch import options_of
from jobs.schedules.schedules import Schedules
from jobs.schedules.seen_objects import SeenObjects
from jobs.storage.bucket import Bucket
from jobs.storage.object_keys import items_key, parse_s3_url
from jobs.storage.streams import put_pieces

NULLABLE = ("ends_at", "trial", "budget_usd", "priority", "webhook_url", "webhook_events", "webhook_digest_s")
MAX_ATTEMPTS = 5


class ScheduleSubmission:
    """Creates, changes and deletes schedules.

    Args:
        schedules: their records.
        seen: marks of each schedule's successes.
        bucket: stores lists of items.
        batch_submission: checks the options of their batches.
    """

    def __init__(
        self, schedules: Schedules, seen: SeenObjects, bucket: Bucket, batch_submission: BatchSubmission
    ) -> None:
        self._schedules = schedules
        self._seen = seen
        self._bucket = bucket
        self._batch_submission = batch_submission

    def create(self, request: ScheduleRequest, *, tenant: str) -> Schedule:
        """Create a schedule. It fires at its first tick after now, unless it starts paused.

        Raises:
            InvalidInput: naming every field that breaks a rule.
            Unavailable, redis.exceptions.RedisError: a store does not answer.
        """
        schedule_id = new_id("sch")
        template = ScheduleTemplate.model_validate(request.model_dump(exclude={"items", "paused"}))
        self._check(template, tenant)
        more = self._save_items(tenant, schedule_id, request.items) if request.items else {}
        wanted = ScheduleState.PAUSED if request.paused else ScheduleState.ACTIVE
        state, tick = self._schedules.plan(template, wanted)
        self._schedules.write(schedule_id, tenant, template, revision="", state=state, next_tick=tick, more=more)
        return self._schedules.get(tenant, schedule_id)

    def change(self, tenant: str, schedule_id: str, change: ScheduleChange) -> Schedule:
        """Change the fields that are set. A new expression, time zone or end applies from now; open runs do not change.

        Raises:
            NotFound: the tenant has no schedule with this id.
            InvalidInput: naming every field that breaks a rule.
            Conflict: concurrent changes won every attempt.
        """
        for _ in range(MAX_ATTEMPTS):
            before, record = self._schedules.read(tenant, schedule_id)
            template = _changed(before, change)
            self._check(template, tenant)
            if template.manifest is None and change.items is None and "items" not in record:
                raise InvalidInput.of("manifest", "a schedule needs a manifest, or items")
            more = self._save_items(tenant, schedule_id, change.items) if change.items else {}
            state, tick = ScheduleState(record["state"]), None
            same_times = _times(template) == _times(before)
            if not same_times:
                wanted = ScheduleState.PAUSED if state is ScheduleState.PAUSED else ScheduleState.ACTIVE
                state, tick = self._schedules.plan(template, wanted)
            if self._schedules.write(
                schedule_id,
                tenant,
                template,
                revision=record["revision"],
                state=state,
                next_tick=tick,
                keep_tick=same_times,
                more=more,
            ):
                return self._schedules.get(tenant, schedule_id)
        raise Conflict(f"schedule {schedule_id} was changed by other requests at the same time; try again")

    def delete(self, tenant: str, schedule_id: str) -> None:
        """Delete a schedule, its runs and its marks; batches that it created continue.

        Raises:
            NotFound: the tenant has no schedule with this id.
        """
        _, record = self._schedules.read(tenant, schedule_id)
        self._schedules.delete(tenant, schedule_id)
        self._seen.forget(schedule_id)
        if "items" in record:
            self._bucket.delete(*parse_s3_url(record["items"]))

    def _check(self, template: ScheduleTemplate, tenant: str) -> None:
        self._batch_submission.check(options_of(template), tenant=tenant, manifest=template.manifest)

    def _save_items(self, tenant: str, schedule_id: str, items: list[dict[str, Any]]) -> dict[str, str]:
        data = b"".join(json.dumps(item).encode() + b"\n" for item in items)
        key = items_key(tenant, schedule_id, hashlib.sha256(data).hexdigest()[:16])
        put_pieces(self._bucket, self._bucket.name, key, [data], media_type="application/jsonl")
        return {"items": f"s3://{self._bucket.name}/{key}", "items_count": str(len(items))}


def _times(template: ScheduleTemplate) -> tuple[object, ...]:
    """The fields that decide when a schedule fires."""
    return template.cron, template.timezone, template.ends_at


def parse_schedule(body: dict[str, Any]) -> ScheduleRequest:
    """Parse a request in JSON.

    Raises:
        InvalidInput: naming every field of a wrong type, and every unknown field.
    """
    return validated(ScheduleRequest.model_validate, body)


def _changed(before: ScheduleTemplate, change: ScheduleChange) -> ScheduleTemplate:
    changes = change.model_dump(exclude_unset=True)
    wrong = [name for name, value in changes.items() if value is None and name not in (*NULLABLE, "items", "manifest")]
    if wrong:
        raise InvalidInput.of(wrong[0], "cannot be null")
    if changes.get("items") is not None and changes.get("manifest") is not None:
        raise InvalidInput.of("items", "either items or a manifest")
    if changes.pop("items", None) is not None:
        changes["manifest"] = None
    return validated(ScheduleTemplate.model_validate, {**before.model_dump(), **changes})
