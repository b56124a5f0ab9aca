"""From a request for a schedule, or for a change of one, to a checked and durable record."""

import hashlib
import json
from typing import Any

from jobs.bucket_streams import put_pieces
from jobs.domain import Domain
from jobs.errors import Conflict, InvalidInput
from jobs.ids import new_id
from jobs.input_errors import validated
from jobs.object_names import items_key, parse_s3_url
from jobs.schedule_making import options_of
from jobs.schedule_models import Schedule, ScheduleChange, ScheduleRequest, ScheduleState, ScheduleTemplate

NULLABLE = ("ends_at", "trial", "budget_usd", "priority", "webhook_url", "webhook_events", "webhook_digest_s")
TRIES = 5


def create_schedule(domain: Domain, request: ScheduleRequest, *, tenant: str) -> Schedule:
    """Make a schedule. It is due at its first tick after now, unless it begins paused.

    Raises:
        InvalidInput: naming every field that breaks a rule.
        Unavailable, redis.exceptions.RedisError: a store does not answer.
    """
    schedule_id = new_id("sch")
    template = ScheduleTemplate.model_validate(request.model_dump(exclude={"items", "paused"}))
    _check(domain, template, tenant)
    more = _keep_items(domain, tenant, schedule_id, request.items) if request.items else {}
    wanted = ScheduleState.PAUSED if request.paused else ScheduleState.ACTIVE
    state, tick = domain.schedules.plan(template, wanted)
    domain.schedules.write(schedule_id, tenant, template, revision="", state=state, next_tick=tick, more=more)
    return domain.schedules.get(tenant, schedule_id)


def change_schedule(domain: Domain, tenant: str, schedule_id: str, change: ScheduleChange) -> Schedule:
    """Change what is given. Another expression, time zone or end counts from now; open runs stay what they are.

    Raises:
        NotFound: no schedule of that id is this tenant's.
        InvalidInput: naming every field that breaks a rule.
        Conflict: others change it at the same time, again and again.
    """
    for _ in range(TRIES):
        before, record = domain.schedules.read(tenant, schedule_id)
        template = _changed(before, change)
        _check(domain, template, tenant)
        if template.manifest is None and change.items is None and "items" not in record:
            raise InvalidInput.of("manifest", "a schedule needs a manifest, or items")
        more = _keep_items(domain, tenant, schedule_id, change.items) if change.items else {}
        state, tick = ScheduleState(record["state"]), None
        same = (template.cron, template.timezone, template.ends_at) == (before.cron, before.timezone, before.ends_at)
        if not same:
            asked = ScheduleState.PAUSED if state is ScheduleState.PAUSED else ScheduleState.ACTIVE
            state, tick = domain.schedules.plan(template, asked)
        if domain.schedules.write(
            schedule_id,
            tenant,
            template,
            revision=record["revision"],
            state=state,
            next_tick=tick,
            keep_tick=same,
            more=more,
        ):
            return domain.schedules.get(tenant, schedule_id)
    raise Conflict(f"schedule {schedule_id} changes faster than it can be changed; try again")


def delete_schedule(domain: Domain, tenant: str, schedule_id: str) -> None:
    """Forget a schedule, its runs and what it has seen; batches that it made go on.

    Raises:
        NotFound: no schedule of that id is this tenant's.
    """
    _, record = domain.schedules.read(tenant, schedule_id)
    domain.schedules.delete(tenant, schedule_id)
    domain.seen.forget(schedule_id)
    if "items" in record:
        domain.bucket.delete(*parse_s3_url(record["items"]))


def parse_schedule(body: dict[str, Any]) -> ScheduleRequest:
    """A request as JSON holds it.

    Raises:
        InvalidInput: naming every field of a wrong type, and every unknown one.
    """
    return validated(ScheduleRequest.model_validate, body)


def _changed(before: ScheduleTemplate, change: ScheduleChange) -> ScheduleTemplate:
    given = change.model_dump(exclude_unset=True)
    wrong = [name for name, value in given.items() if value is None and name not in (*NULLABLE, "items", "manifest")]
    if wrong:
        raise InvalidInput.of(wrong[0], "cannot be null")
    if given.get("items") is not None and given.get("manifest") is not None:
        raise InvalidInput.of("items", "either items or a manifest")
    if given.pop("items", None) is not None:
        given["manifest"] = None
    return validated(ScheduleTemplate.model_validate, {**before.model_dump(), **given})


def _check(domain: Domain, template: ScheduleTemplate, tenant: str) -> None:
    domain.batch_submission.check(options_of(template), tenant=tenant, manifest=template.manifest)


def _keep_items(domain: Domain, tenant: str, schedule_id: str, items: list[dict[str, Any]]) -> dict[str, str]:
    data = b"".join(json.dumps(item).encode() + b"\n" for item in items)
    key = items_key(tenant, schedule_id, hashlib.sha256(data).hexdigest()[:16])
    put_pieces(domain.bucket, domain.bucket.name, key, [data], media_type="application/jsonl")
    return {"items": f"s3://{domain.bucket.name}/{key}", "items_count": str(len(items))}
