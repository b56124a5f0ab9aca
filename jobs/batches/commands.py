"""Commands on batches: begin, get, list, pause, resume, approve, cancel, retry. Their cost is independent of size."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from redis import Redis

from jobs.batches.models import ENDED, RETRIABLE, Batch, BatchState, Changes, Reject, SavedResults
from jobs.batches.progress import decode_batch
from jobs.catalogue.catalogue import Catalogue
from jobs.catalogue.status import Status
from jobs.events.outbox import Event
from jobs.foundation.errors import Conflict, FieldError, IdempotencyMismatch, InvalidInput, NotFound
from jobs.foundation.ids import batch_job_prefix
from jobs.foundation.job_states import State
from jobs.foundation.paging import Page, check_limit, page_of_keys, read_cursor, write_cursor
from jobs.foundation.redis_keys import Keys
from jobs.plan.records import Idempotency
from jobs.plan.script_runner import ScriptRunner
from jobs.records.job_codec import MICRO
from jobs.records.job_models import JobRequest

IDEMPOTENCY_S = 24 * 3600
MAX_PAGE = 200
_BUDGET_HINT = "give a larger budget_usd, or cancel"


class Batches:
    """The batches of all tenants. Safe in any number of processes and threads at once.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
        catalogue: the models.
        scripts: runs the scripts.
        status: windows and paces of the models, for estimates.
    """

    def __init__(self, redis: Redis, keys: Keys, catalogue: Catalogue, scripts: ScriptRunner, status: Status) -> None:
        self._redis = redis
        self._keys = keys
        self._catalogue = catalogue
        self._scripts = scripts
        self._status = status

    def begin(self, batch_id: str, tenant: str, fields: Mapping[str, str], idempotency: Idempotency | None) -> str:
        """Write a batch after its manifest was saved. When this returns it is durable, and its ingest is due.

        Returns:
            Its id, or the id of the batch that an earlier request with the same Idempotency-Key created.

        Raises:
            IdempotencyMismatch: an earlier request used the key with another body.
        """
        command = {
            "idempotency": {"body": idempotency.body_sha256, "ttl_ms": IDEMPOTENCY_S * 1000} if idempotency else None,
            "fields": {
                **fields,
                "tenant": tenant,
                "lanes": self._keys.batch_lanes(batch_id),
                "chores": self._keys.background_tasks,
            },
        }
        keys = [
            self._keys.batch(batch_id),
            self._keys.batches(tenant),
            self._keys.background_tasks,
            self._keys.idempotency(tenant, idempotency.key_sha256 if idempotency else "-"),
        ]
        answer = self._scripts.run("batches/begin", keys, [json.dumps(command, ensure_ascii=False)])
        if answer[0] == "mismatch":
            raise IdempotencyMismatch("this Idempotency-Key was used with another request; use a new key")
        return self._keys.id_of(answer[1]) if answer[0] == "replayed" else batch_id

    def record(self, batch_id: str) -> dict[str, str]:
        """The batch's hash as stored; empty if there is no such batch."""
        record: dict[Any, Any] = self._redis.hgetall(self._keys.batch(batch_id))
        return record

    def get(self, tenant: str, batch_id: str) -> Batch:
        """One batch.

        Raises:
            NotFound: the tenant has no batch with this id.
        """
        record = self.record(batch_id)
        if record.get("tenant") != tenant:
            raise NotFound(f"there is no batch {batch_id}")
        return self._decode(batch_id, record)

    def page(self, tenant: str, *, limit: int = 50, cursor: str | None = None) -> Page[Batch]:
        """A tenant's batches, the newest first.

        Raises:
            InvalidInput: naming `limit` or `cursor`.
        """
        check_limit(limit, MAX_PAGE)
        below = self._keys.batch(read_cursor(cursor, "bat_.+")) if cursor else None
        keys, more = page_of_keys(self._redis, self._keys.batches(tenant), below, limit)
        pipe = self._redis.pipeline(transaction=False)
        for key in keys:
            pipe.hgetall(key)
        records = dict(zip(keys, pipe.execute(), strict=True))
        expired = [key for key, record in records.items() if not record]
        if expired:
            self._redis.zrem(self._keys.batches(tenant), *expired)
        data = [self._decode(self._keys.id_of(key), record) for key, record in records.items() if record]
        return Page(data, write_cursor(self._keys.id_of(keys[-1])) if more else None)

    def data_of(self, event: Event) -> Any:
        """The `data` of an event about a batch: the batch at that time, as the API shows it."""
        return self._decode(event.subject, json.loads(event.data), event.at.timestamp()).model_dump(mode="json")

    def _decode(self, batch_id: str, record: Mapping[str, str], now_s: float | None = None) -> Batch:
        lanes: Any = ()
        if record["state"] not in ENDED:
            lanes = self._redis.smembers(record["lanes"])
        return decode_batch(batch_id, record, self._lane_records(lanes), self._pace_of, now_s or time.time())

    def _lane_records(self, lanes: Sequence[str]) -> list[dict[str, str]]:
        pipe = self._redis.pipeline(transaction=False)
        for lane in lanes:
            pipe.hmget(lane, ["model", "price", "trial"])
        return [
            {"model": self._keys.id_of(model).removeprefix("model:"), "price": price or "0", "trial": trial or ""}
            for model, price, trial in pipe.execute()
            if model
        ]

    def _pace_of(self, model: str) -> tuple[int, float, int]:
        """A model's window, its pace a minute (0: no limit) and how many tenants share it now."""
        status = next((entry for entry in self._status.models() if entry.name == model), None)
        sharing: Any = self._redis.zcard(self._keys.ring(model))
        return (status.window, status.pace_rpm, max(1, sharing)) if status else (1, 0, 1)

    def pause(self, tenant: str, batch_id: str) -> Batch:
        """Pause it: none of its jobs starts until it is resumed.

        Raises:
            NotFound: the tenant has no batch with this id.
            Conflict: it is neither ingesting nor running.
        """
        return self._act("batches/pause", tenant, batch_id, [], "only a running batch can be paused")

    def resume(self, tenant: str, batch_id: str, budget_usd: float | None = None) -> Batch:
        """Continue after a pause, optionally with a new budget.

        Raises:
            NotFound: the tenant has no batch with this id.
            Conflict: it is not paused, or its budget does not cover one more edit.
        """
        budget = "" if budget_usd is None else round(budget_usd * MICRO)
        return self._act("batches/resume", tenant, batch_id, [budget], "only a paused batch can be resumed")

    def approve(self, tenant: str, batch_id: str, changes: Changes | None = None) -> Batch:
        """Start the jobs that wait for approval after the trial; `changes` override the fields of its rows.

        Raises:
            NotFound: the tenant has no batch with this id.
            Conflict: it does not await approval.
            InvalidInput: naming each change that a model of the batch does not accept.
        """
        values = changes.model_dump(mode="json", exclude_none=True) if changes else {}
        if values:
            self._check_changes(tenant, batch_id, values)
        text = json.dumps(values, ensure_ascii=False) if values else ""
        return self._act(
            "batches/approve", tenant, batch_id, [text], "only a batch that awaits approval can be approved"
        )

    def _check_changes(self, tenant: str, batch_id: str, changes: Mapping[str, Any]) -> None:
        defaults = self.get(tenant, batch_id).defaults
        lanes: Any = self._redis.smembers(self._keys.batch_lanes(batch_id))
        faults: dict[FieldError, None] = {}
        for name in {lane["model"] for lane in self._lane_records(lanes)}:
            try:
                changed = JobRequest.model_validate({"prompt": "-", **defaults, **changes})
            except ValidationError as error:
                first = error.errors()[0]
                raise InvalidInput.of(str(first["loc"][0]), str(first["msg"])) from error
            found = self._catalogue.get(name).faults(changed)
            faults |= dict.fromkeys(fault for fault in found if fault.field in changes)
        if faults:
            raise InvalidInput(*faults)

    def cancel(self, tenant: str, batch_id: str) -> Batch:
        """Cancel it; its running jobs stop at their next step.

        Raises:
            NotFound: the tenant has no batch with this id.
            Conflict: it has ended.
        """
        return self._act("batches/cancel", tenant, batch_id, [], "it has ended already")

    def retry(self, tenant: str, batch_id: str, states: Sequence[State]) -> Batch:
        """Queue its jobs of these states again.

        Raises:
            NotFound: the tenant has no batch with this id.
            Conflict: no job is in these states, or an earlier retry or cancel has not finished.
            InvalidInput: jobs of one of the states cannot be retried.
        """
        wrong = [state for state in states if state not in RETRIABLE]
        if wrong or not states:
            raise InvalidInput.of("states", f"one or more of {', '.join(RETRIABLE)}")
        wanted = json.dumps(list(dict.fromkeys(states)))
        return self._act("batches/retry", tenant, batch_id, [wanted], "it has no jobs to retry")

    def _act(self, script: str, tenant: str, batch_id: str, args: Sequence[Any], refusal: str) -> Batch:
        key = self._keys.batch(batch_id)
        if self._redis.hget(key, "tenant") != tenant:
            raise NotFound(f"there is no batch {batch_id}")
        state, done = self._scripts.run(script, [key], args)
        match done:
            case "budget":
                raise Conflict(f"batch {batch_id} has used up its budget: {_BUDGET_HINT}")
            case "busy":
                raise Conflict(f"batch {batch_id} is still busy with an earlier cancel or retry; try again in a moment")
            case "none":
                raise Conflict(f"batch {batch_id} has no job in these states")
            case "0":
                raise Conflict(f"batch {batch_id} is {state}: {refusal}")
        return self.get(tenant, batch_id)

    def rejects(self, batch_id: str, *, chunk: int = 500) -> Iterator[Reject]:
        """A batch's rejects in manifest order, read in chunks."""
        key = self._keys.batch_rejects(batch_id)
        start = 0
        while True:
            texts: Any = self._redis.lrange(key, start, start + chunk - 1)
            for text in texts:
                yield Reject.model_validate_json(text)
            if len(texts) < chunk:
                return
            start += chunk

    def sweep(self, batch_id: str, number: int, *, limit: int = 500) -> int:
        """Apply a cancel or retry of the batch to at most `limit` of its jobs.

        Returns:
            1: all jobs are done; 0: more jobs remain; -1: another worker has claimed the task.
        """
        prefix = self._keys.job(batch_job_prefix(batch_id))
        return int(self._scripts.run("batches/sweep", [self._keys.batch(batch_id)], [number, prefix, limit]))

    def supersede(self, tenant: str, batch_id: str, custom_ids: Sequence[str], *, chunk: int = 50) -> int:
        """Cancel waiting jobs of the tenant's earlier batches with these custom_ids; returns how many."""
        keys = [self._keys.custom_ids(tenant), self._keys.batch(batch_id)]
        prefix = self._keys.job(batch_job_prefix(batch_id))
        return sum(
            int(self._scripts.run("batches/supersede", keys, [prefix, batch_id, *custom_ids[first : first + chunk]]))
            for first in range(0, len(custom_ids), chunk)
        )

    def record_results(self, batch_id: str, number: int, results: SavedResults, retention_s: float) -> bool:
        """Record where the results of an ended batch are, and keep its record for `retention_s` seconds.

        Returns:
            False if the batch is running again, or another worker has claimed the task `number`.
        """
        keys = [self._keys.batch(batch_id), self._keys.batch_rejects(batch_id)]
        return bool(
            self._scripts.run(
                "batches/record_results", keys, [number, results.model_dump_json(), int(retention_s * 1000)]
            )
        )

    def state(self, batch_id: str) -> BatchState | None:
        """Its state; None if there is no such batch."""
        state = self._redis.hget(self._keys.batch(batch_id), "state")
        return BatchState(str(state)) if state else None
