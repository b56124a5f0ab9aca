"""Every state change of a job. Each method is one script; the scripts refuse what states.TRANSITIONS does not allow."""

import json
from collections.abc import Sequence
from datetime import datetime
from secrets import token_hex
from typing import Any

from redis import Redis

from jobs.catalogue.catalogue import Catalogue
from jobs.foundation.errors import Conflict, IdempotencyMismatch, NotFound, QuotaExceeded
from jobs.foundation.ids import batch_of, made_at
from jobs.foundation.job_states import FINAL, State
from jobs.foundation.redis_keys import Keys
from jobs.foundation.values import moment, pairs, to_ms
from jobs.plan.records import Claim, Dispatch, Draft, Idempotency, Plan, ReuseEntry, Submitted
from jobs.plan.script_runner import ScriptRunner
from jobs.plan.settlement import Settlement
from jobs.records.job_codec import (
    MICRO,
    decode_checkpoint,
    decode_input,
    decode_spec,
    encode_attempt,
    encode_input,
    encode_output,
    to_json,
)
from jobs.records.job_models import WEIGHTS, AttemptRecord, Checkpoint

IDEMPOTENCY_S = 24 * 3600
BURST_MS = 500
"""How far starts may run ahead of the pace's even beat."""


class Planner:
    """The plan over one Redis or Valkey. Safe in any number of processes and threads at once.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
        catalogue: the models; `register_models` makes their limits known to the scripts.
        scripts: runs the scripts.
    """

    def __init__(self, redis: Redis, keys: Keys, catalogue: Catalogue, scripts: ScriptRunner) -> None:
        self._redis = redis
        self._keys = keys
        self._catalogue = catalogue
        self._scripts = scripts

    def register_models(self) -> None:
        """Make the catalogue's limits known to the scripts. Called by every process that starts; the last one counts.

        An account whose pace is not known (`rpm = 0`) begins with a small window and finds its limit out.
        """
        for model in self._catalogue.models.values():
            key = self._keys.model(model.name)
            first = model.concurrency if model.rpm > 0 else min(model.concurrency, 8)
            pipe = self._redis.pipeline()
            pipe.hsetnx(key, "limit", first)
            pipe.hsetnx(key, "in_flight", 0)
            pipe.hmget(key, ["concurrency", "rpm"])
            pipe.hset(
                key,
                mapping={
                    "name": model.name,
                    "ring": self._keys.ring(model.name),
                    "totals": self._keys.totals(model.name),
                    "samples": self._keys.samples(model.name),
                    "concurrency": model.concurrency,
                    "rpm": model.rpm,
                },
            )
            concurrency, rpm = pipe.execute()[2]
            if concurrency is not None and int(concurrency) != model.concurrency:
                self._redis.hset(key, "limit", first)
            if rpm is not None and float(rpm) != model.rpm:
                # What was learned under another limit says nothing of this one.
                self._redis.hdel(key, "pace", "pace_at", "pace_hold")

    def submit(self, drafts: Sequence[Draft], *, tenant: str, idempotency: Idempotency | None = None) -> Submitted:
        """Write jobs and put them on their lanes, all or none. When this returns they are durable.

        Args:
            drafts: of one tenant, and of one batch or of none.
            tenant: whose they are.
            idempotency: makes a second submit with the same key answer with the first one's jobs.

        Raises:
            IdempotencyMismatch: the key came before with another body.
            QuotaExceeded: the tenant may not have so many jobs queued, or a day.
        """
        batch_id = batch_of(drafts[0].job_id)
        lanes: dict[str, dict[str, Any]] = {}
        numbers: dict[str, int] = {}
        jobs = []
        for draft in drafts:
            spec = draft.spec
            lane = self.lane_record(spec.model or "", tenant, batch_id, spec.priority)
            if lane["key"] not in lanes:
                lanes[lane["key"]] = lane
                numbers[lane["key"]] = len(lanes)
            jobs.append(
                {
                    "lane": numbers[lane["key"]],
                    "due": to_ms(spec.not_before) if spec.not_before else None,
                    "deadline_ms": int(spec.deadline_s * 1000) if spec.deadline_s else None,
                    "custom": spec.custom_id,
                    "fields": _fields_of(draft),
                }
            )
        order = {
            "idempotency": {"body": idempotency.body_sha256, "ttl_ms": IDEMPOTENCY_S * 1000} if idempotency else None,
            "lanes": list(lanes.values()),
            "jobs": jobs,
        }
        answer = self._scripts.run(
            "jobs/submit",
            [
                self._keys.tenant(tenant),
                self._keys.custom_ids(tenant),
                self._keys.idempotency(tenant, idempotency.key_sha256 if idempotency else "-"),
                self._keys.batch(batch_id or "-"),
                *(self._keys.job(draft.job_id) for draft in drafts),
            ],
            [json.dumps(order, ensure_ascii=False)],
        )
        match answer[0]:
            case "mismatch":
                raise IdempotencyMismatch("this Idempotency-Key came before with another request; use a new key")
            case "quota":
                raise _quota_exceeded(answer[1], answer[2], int(answer[3]))
            case "replayed":
                # A submit that was sent again after a dropped connection finds its own jobs: that is no replay.
                ids = [self._keys.id_of(key) for key in answer[1:]]
                return Submitted(ids, replayed=ids != [draft.job_id for draft in drafts])
        return Submitted([draft.job_id for draft in drafts], tuple(State(state) for state in answer[1].split()))

    def lane_record(
        self, model: str, tenant: str, batch_id: str | None, priority: str, *, trial: bool = False
    ) -> dict[str, Any]:
        """A lane as the scripts write it where there is none: its key and fields, and those of its share."""
        share = self._keys.share(model, tenant)
        return {
            "key": self._keys.lane(model, tenant, batch_id, priority, trial=trial),
            "trial": trial,
            "fields": {
                "list": self._keys.lane_list(model, tenant, batch_id, priority, trial=trial),
                "share": share,
                "model": self._keys.model(model),
                "totals": self._keys.totals(model),
                "tenant": self._keys.tenant(tenant),
                "owner": tenant,
                "batch": self._keys.batch(batch_id) if batch_id else "",
                "weight": str(WEIGHTS[priority]),
                "price": str(round(self._catalogue.get(model).price_usd * MICRO)),
                **({"trial": "1"} if trial else {}),
                **{f"i:{state}": self._keys.index(tenant, state) for state in State},
            },
            "share": share,
            "share_fields": {
                "lanes": self._keys.share_lanes(model, tenant),
                "ring": self._keys.ring(model),
                "model": self._keys.model(model),
                "tenant": self._keys.tenant(tenant),
                "weight": "1",
            },
        }

    def plan(self, *, limit: int = 100) -> Plan:
        """Start what may start now; at most `limit` jobs."""
        models = [self._keys.model(name) for name in self._catalogue.models]
        answer = self._scripts.run("jobs/plan", [self._keys.workers, *models], [limit, BURST_MS])
        wait_ms = int(answer[0])
        started = pairs(answer[1:])
        dispatches = [Dispatch(self._keys.id_of(key), int(attempt)) for key, attempt in started.items()]
        return Plan(dispatches, None if wait_ms < 0 else wait_ms / 1000)

    def claim(self, job_id: str, attempt: int, worker: str) -> Claim | None:
        """Take up an attempt; None where its message is to be dropped (late, taken, or the job has moved on)."""
        answer = self._scripts.run("jobs/claim", [self._keys.job(job_id)], [attempt, worker, token_hex(8)])
        if not answer:
            return None
        record = pairs(answer[5])
        spec = decode_spec(record, *(json.loads(text) if text else None for text in answer[2:4]))
        if "traceparent" in record:
            # A batch keeps its submitter's once for all its jobs.
            spec = spec.model_copy(update={"traceparent": record["traceparent"]})
        return Claim(
            job_id=job_id,
            attempt=attempt,
            tenant=answer[1],
            spec=spec,
            input=decode_input(record, spec),
            checkpoint=decode_checkpoint(record),
            tries=int(record.get("tries", 0)),
            deadline=moment(record["deadline"]) if "deadline" in record else None,
            claimed_at=moment(answer[0]),
            queued_at=_queued_at(job_id, record),
            sheet=answer[4] == "1",
            probe="probe" in record,
            supersede=record.get("supersede") == "1",
        )

    def checkpoint(self, claim: Claim, answer: Checkpoint | None, *, cost_micro_usd: int = 0) -> bool:
        """Record the provider's answer and its price before anything else is done with it; None clears it.

        Returns:
            False where the attempt is no longer the job's: its holder must stop.
        """
        text = to_json(answer) if answer else ""
        keys = [self._keys.job(claim.job_id)]
        known = encode_input(claim.input, claim.spec)
        return bool(self._scripts.run("jobs/checkpoint", keys, [claim.attempt, text, cost_micro_usd, known]))

    def settle(
        self,
        claim: Claim,
        end: Settlement,
        *,
        finished_at: datetime,
        cost_micro_usd: int = 0,
        entry: ReuseEntry | None = None,
        suspect: bool = False,
    ) -> bool:
        """End an attempt: state, output or error, log, counts, window, pace and event, in one step.

        Args:
            claim: the attempt.
            end: how it ends.
            finished_at: when it did.
            cost_micro_usd: what its call cost or may have cost, where no checkpoint has said it.
            entry: where an equal edit will find this one.
            suspect: a call is under way and given up: it may be billed, which a batch's budget counts.

        Returns:
            False where the fence refused it: another attempt, or the user, was faster.
        """
        log = AttemptRecord(
            number=claim.attempt,
            started_at=claim.claimed_at,
            finished_at=finished_at,
            outcome=end.outcome,
            message=end.message,
            trace_id=end.trace_id,
        )
        fields: dict[str, str] = {}
        if end.output is not None:
            fields["output"] = encode_output(end.output, claim.spec, claim.job_id)
        if end.error is not None:
            fields["error"] = to_json(end.error)
        if end.to in FINAL:
            fields["input"] = encode_input(claim.input, claim.spec)
        signal = end.signal
        order = {
            "to": end.to,
            "outcome": end.outcome,
            "drop": ["checkpoint"] if end.drop_checkpoint or end.to is State.SUCCEEDED else [],
            "delay_ms": end.delay_ms,
            "cost": cost_micro_usd,
            "reused": end.output is not None and end.output.reused,
            "suspect": suspect,
            "entry": [entry.field, entry.name, entry.lives_ms] if entry else None,
            "count": end.counts,
            "signal": {k: v for k, v in vars(signal).items() if v is not None} if signal else None,
        }
        keys = [self._keys.job(claim.job_id), entry.key if entry else self._keys.job(claim.job_id)]
        flat = [part for pair in fields.items() for part in pair]
        text = json.dumps(order, ensure_ascii=False)
        return bool(self._scripts.run("jobs/settle", keys, [claim.attempt, text, encode_attempt(log), *flat]))

    def renew(self, worker: str, *, slots: int, worker_info: str, held: Sequence[Dispatch]) -> list[Dispatch]:
        """A worker's pulse: register its threads for edits and renew what it holds.

        Args:
            worker: its name, one of a kind.
            slots: its threads for edits.
            worker_info: a description of the worker, JSON.
            held: the attempts it holds.

        Returns:
            The attempts it has lost and must stop.
        """
        members = [f"{self._keys.job(one.job_id)}#{one.attempt}" for one in held]
        lost = self._scripts.run(
            "workers/renew", [self._keys.workers, self._keys.worker(worker)], [worker, slots, worker_info, *members]
        )
        split = (member.rsplit("#", 1) for member in lost)
        return [Dispatch(self._keys.id_of(key), int(attempt)) for key, attempt in split]

    def depart(self, worker: str, *, gone: bool) -> None:
        """A worker takes no more edits; with `gone` it is forgotten."""
        self._scripts.run(
            "workers/depart", [self._keys.workers, self._keys.worker(worker)], [worker, "1" if gone else "0"]
        )

    def cancel(self, job_id: str) -> State:
        """Stop a job; one that runs stops at its next step.

        Raises:
            NotFound: there is no such job.
            Conflict: it has ended already.
        """
        return self._act("jobs/cancel", job_id, [], "it cannot be canceled")

    def retry(self, job_id: str, *, deadline_s: float | None = None) -> State:
        """Put an ended job back on its lane, its tries counted anew.

        Raises:
            NotFound: there is no such job.
            Conflict: it is not failed, filtered or canceled.
        """
        deadline = int(deadline_s * 1000) if deadline_s else ""
        return self._act("jobs/retry", job_id, [deadline], "only a failed, filtered or canceled job can be tried again")

    def park(self, model: str, reason: str) -> bool:
        """Set a model aside until `resume`; False where an operator has done so already.

        Raises:
            InvalidInput: it is no model of the catalogue.
        """
        key = self._keys.model(self._catalogue.get(model).name)
        return bool(self._scripts.run("models/park", [key], [reason]))

    def resume(self, model: str) -> bool:
        """Take a model up again, whatever it was parked for; False where it is not parked.

        Raises:
            InvalidInput: it is no model of the catalogue.
        """
        key = self._keys.model(self._catalogue.get(model).name)
        return bool(self._scripts.run("models/resume", [key], []))

    def _act(self, script: str, job_id: str, args: Sequence[Any], refusal: str) -> State:
        answer = self._scripts.run(script, [self._keys.job(job_id)], args)
        if not answer:
            raise NotFound(f"there is no job {job_id}")
        if answer[1] != "1":
            raise Conflict(f"job {job_id} is {answer[0]}: {refusal}")
        return State(answer[0])


def _fields_of(draft: Draft) -> dict[str, str]:
    fields = {"spec": to_json(draft.spec)}
    if draft.input.sha256 is not None:
        fields["input"] = encode_input(draft.input, draft.spec)
    if draft.spec.webhook_url:
        fields["tell"] = "1"
    return fields


def _queued_at(job_id: str, record: dict[str, str]) -> datetime:
    """Since when the plan could have taken a job: queued, and its lane not held."""
    queued = moment(record["queued"]) if "queued" in record else made_at(job_id)
    return max(queued, moment(record["since"])) if "since" in record else queued


def _quota_exceeded(which: str, limit: str, next_day_s: int) -> QuotaExceeded:
    if which == "max_daily":
        return QuotaExceeded(f"the tenant's {limit} edits of this day (UTC) are used up", next_day_s)
    return QuotaExceeded(f"the tenant may have {limit} jobs queued at a time; wait until some have ended", 30)
