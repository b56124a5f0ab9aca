"""A planner over real scripts with its own clock, and helpers for tests that use it."""

from itertools import count
from typing import Any

from redis import Redis

from jobs.catalogue.catalogue import Catalogue, ModelSpec, load_catalogue
from jobs.edits.reader import JobReader
from jobs.foundation.ids import batch_job_id, new_batch_id, new_job_id
from jobs.foundation.job_states import State
from jobs.foundation.redis_keys import Keys
from jobs.foundation.secret_box import SecretBox
from jobs.foundation.values import moment
from jobs.plan.planner import Planner
from jobs.plan.records import Claim, Dispatch, Draft, Idempotency, Submitted
from jobs.plan.script_runner import ScriptRunner
from jobs.plan.settlement import OK, Settlement, Signal
from jobs.records.job_models import Input, JobSpec
from jobs.tenants.quotas import TenantQuotas
from jobs.tenants.tenants import Tenants
from tests.support.clock import Clock

MODEL = "step-image-edit-2"


def model(**changes: object) -> ModelSpec:
    """The default model with other limits; generous ones unless given."""
    spec = load_catalogue().get(MODEL)
    return spec.model_copy(update={"concurrency": 1000, "rpm": 0.0, **changes})


class Plans:
    """One plan with its own key prefix."""

    def __init__(self, redis: Redis, prefix: str, clock: Clock, *models: ModelSpec, slots: int = 1000) -> None:
        self.redis = redis
        self.clock = clock
        self.keys = Keys(prefix)
        catalogue = Catalogue(models or (model(),), (models or (model(),))[0].name)
        self.scripts = ScriptRunner(redis, self.keys, retention_s=86400, clock_ms=clock)
        self.planner = Planner(redis, self.keys, catalogue, self.scripts)
        self.planner.register_models()
        self.job_reader = JobReader(redis, self.keys)
        self.tenants = Tenants(redis, self.keys, SecretBox(None))
        self.quotas = TenantQuotas(redis, self.keys, self.tenants)
        self.slots = slots
        self.beat()
        self._seeds = count(1)

    def beat(self, *held: Dispatch) -> list[Dispatch]:
        """The heartbeat of the only worker."""
        return self.planner.renew("w1", slots=self.slots, worker_info="{}", held=held)

    def draft(self, job_id: str | None = None, **fields: Any) -> Draft:
        values = {"model": MODEL, "prompt": "p", "image": "s3://b/k.png", "seed": next(self._seeds), **fields}
        spec = JobSpec.model_validate(values)
        return Draft(job_id or new_job_id(), spec, Input(image="s3://b/k.png"))

    def submit(
        self, number: int = 1, tenant: str = "acme", *, idempotency: Idempotency | None = None, **fields: Any
    ) -> list[str]:
        self.tenants.ensure(tenant)
        drafts = [self.draft(**fields) for _ in range(number)]
        return self.submitted(drafts, tenant, idempotency).job_ids

    def submitted(self, drafts: list[Draft], tenant: str = "acme", idempotency: Idempotency | None = None) -> Submitted:
        return self.planner.submit(drafts, tenant=tenant, idempotency=idempotency)

    def submit_batch(self, number: int, tenant: str = "acme", **fields: Any) -> tuple[str, list[str]]:
        self.tenants.ensure(tenant)
        batch_id = new_batch_id()
        drafts = [self.draft(batch_job_id(batch_id, row), **fields) for row in range(1, number + 1)]
        return batch_id, self.submitted(drafts, tenant).job_ids

    def plan(self, limit: int = 100) -> list[Dispatch]:
        return self.planner.plan(limit=limit).dispatches

    def claim(self, dispatch: Dispatch) -> Claim:
        claim = self.planner.claim(dispatch.job_id, dispatch.attempt, "w1")
        assert claim is not None
        return claim

    def start(self, limit: int = 100) -> list[Claim]:
        return [self.claim(dispatch) for dispatch in self.plan(limit)]

    def end(self, claim: Claim, to: State = State.SUCCEEDED, *, signal: Signal | None = OK, delay_ms: int = 0) -> bool:
        outcome = {State.WAITING: "retry", State.QUEUED: "handed_back"}.get(to, str(to))
        settlement = Settlement(to, outcome, signal=signal, delay_ms=delay_ms)  # type: ignore[arg-type]
        return self.planner.settle(claim, settlement, finished_at=moment(self.clock.now_ms))

    def outbox(self) -> list[dict[str, str]]:
        entries: Any = self.redis.xrange(self.keys.outbox)
        return [fields for _, fields in entries]

    def state(self, job_id: str) -> State:
        return State(str(self.redis.hget(self.keys.job(job_id), "state")))

    def model_field(self, field: str, name: str = MODEL) -> str | None:
        value = self.redis.hget(self.keys.model(name), field)
        return None if value is None else str(value)
