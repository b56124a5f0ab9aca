"""A store that version 0.1.0 wrote is read, continued and finished by this version."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.foundation.errors import Unauthorized
from jobs.foundation.job_states import State
from jobs.foundation.values import moment
from jobs.queueing.background_tasks import TaskKind
from jobs.wiring import Domain
from tests.support.api_server import served
from tests.support.batches import BatchHarness
from tests.support.clock import Clock
from tests.support.receiver import Receiver
from tests.support.schedules import Timetable, open_at
from tests.support.store_snapshot import Snapshot, differences, read_snapshot
from tests.support.webhook_worker import webhook_runner

VERSION = "0.1.0"
ESTIMATES = {"eta_s", "rate_per_s"}
"""Fields that depend on the moment of the question."""


@dataclass(frozen=True)
class Restored:
    """A restored store and a domain over it. Its clock shows the moment of the snapshot."""

    snapshot: Snapshot
    domain: Domain
    clock: Clock
    origin: str

    def get(self, tenant: str, path: str) -> Any:
        """The API's answer to a tenant's GET."""
        return self._call("GET", tenant, path)

    def post(self, tenant: str, path: str, **content: Any) -> Any:
        """The API's answer to a tenant's POST."""
        return self._call("POST", tenant, path, **content)

    def _call(self, method: str, tenant: str, path: str, **content: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.snapshot.api_keys[tenant]}", **content.pop("headers", {})}
        answer = httpx.request(method, f"{self.origin}{path}", headers=headers, timeout=30, **content)
        assert answer.is_success, (path, answer.text)
        return answer.json()

    def job_id(self, what: str) -> str:
        return str(self.snapshot.named["jobs"][what])

    def batch_id(self, state: str) -> str:
        return str(self.snapshot.named["batches"][state])

    def schedule_id(self, what: str) -> str:
        return str(self.snapshot.named["schedules"][what])

    def state(self, what: str) -> str:
        """The state of a single job."""
        return str(self.get("singles", f"/v1/jobs/{self.job_id(what)}")["state"])

    def batch(self, state: str) -> Any:
        """The batch that had this state in the snapshot, as it is now."""
        return self.get("batches", f"/v1/batches/{self.batch_id(state)}")

    def take_back(self) -> None:
        """Let every lease expire, and the grace that follows a time in which no worker was heard."""
        for _ in range(30):
            self.clock.advance(1)
            self.domain.planner.plan(limit=0)


@pytest.fixture
def restored(make_settings: Any, tmp_path: Path, receiver: Receiver) -> Iterator[Restored]:
    prefix = make_settings().key_prefix
    snapshot = read_snapshot(VERSION, prefix=prefix, receiver_url=receiver.url)
    clock = Clock(snapshot.now_ms)
    domain = open_at(make_settings, tmp_path, clock, catalogue=snapshot.catalogue, secret_key=snapshot.secret_key)
    snapshot.restore(domain.redis, domain.bucket)
    domain.planner.register_models()
    with served(domain) as origin:
        yield Restored(snapshot, domain, clock, origin)
    domain.close()


def test_every_recorded_view_is_answered_with_the_same_values(restored: Restored) -> None:
    found = [
        f"{tenant} {path}{difference}"
        for tenant, views in restored.snapshot.views.items()
        for path, recorded in views.items()
        for difference in differences(recorded, restored.get(tenant, path))
        if difference.split(":")[0].rsplit(".", 1)[-1] not in ESTIMATES
    ]
    assert found == []


def test_the_snapshot_has_every_state_of_jobs_batches_and_deliveries(restored: Restored) -> None:
    views = restored.snapshot.views
    assert {job["state"] for job in views["singles"]["/v1/jobs?limit=500"]["data"]} == set(State)
    assert {batch["state"] for batch in views["batches"]["/v1/batches"]["data"]} == set(
        restored.snapshot.named["batches"]
    )
    deliveries = {delivery["state"] for delivery in views["hooks"]["/v1/deliveries?limit=100"]["data"]}
    assert deliveries == {"waiting", "succeeded", "exhausted"}
    assert {schedule["state"] for schedule in views["planned"]["/v1/schedules"]["data"]} == {"active", "paused"}


def test_api_keys_and_quotas_hold(restored: Restored) -> None:
    api_keys = restored.domain.api_keys
    for tenant, key in restored.snapshot.api_keys.items():
        caller = api_keys.authenticate(key)
        assert (caller.tenant, caller.admin) == (tenant, tenant == "operator")
    with pytest.raises(Unauthorized):
        api_keys.authenticate(restored.snapshot.revoked_key)
    assert restored.domain.quotas.get("singles").max_in_flight == 50


def test_an_idempotency_key_still_answers_with_its_job(restored: Restored) -> None:
    wanted = restored.snapshot.named["idempotent"]
    headers = {"Idempotency-Key": wanted["key"], "Content-Type": "application/json"}
    replayed = restored.post("singles", "/v1/jobs", headers=headers, content=wanted["body"])
    assert replayed["id"] == restored.job_id("queued")


def test_queued_jobs_start_and_waiting_jobs_start_when_they_are_due(restored: Restored) -> None:
    batch_harness = BatchHarness(restored.domain, "singles")
    started = {claim.job_id for claim in batch_harness.start(500)}
    assert restored.job_id("queued") in started
    assert {restored.job_id(what) for what in ("retry", "waiting_not_before")}.isdisjoint(started)
    for what, after_s in (("retry", 61), ("waiting_not_before", 3_600)):
        restored.clock.advance(after_s)
        claims = {claim.job_id: claim for claim in batch_harness.start(500)}
        assert batch_harness.end(claims[restored.job_id(what)], State.SUCCEEDED)
        assert restored.state(what) == "succeeded"


def test_jobs_with_expired_leases_run_again_and_keep_their_checkpoints(restored: Restored) -> None:
    restored.take_back()
    batch_harness = BatchHarness(restored.domain, "singles")
    claims: dict[str, Any] = {}
    wanted = {restored.job_id("running"), restored.job_id("running_with_checkpoint")}
    while not wanted <= claims.keys():
        # A job that lost its worker runs where no other such job runs, so each round starts one of them.
        started = batch_harness.start(500)
        assert started
        for claim in started:
            claims[claim.job_id] = claim
            assert batch_harness.end(claim, State.SUCCEEDED)
    again = claims[restored.job_id("running_with_checkpoint")]
    assert again.attempt == 2
    assert again.checkpoint is not None
    assert again.checkpoint.seed == 7
    assert claims[restored.job_id("running")].checkpoint is None
    assert restored.state("running") == "succeeded"


def test_ended_jobs_are_retried(restored: Restored) -> None:
    for what in ("failed", "filtered", "canceled"):
        assert restored.post("singles", f"/v1/jobs/{restored.job_id(what)}/retry")["state"] == "queued"


def test_parked_models_are_resumed_and_their_jobs_start(restored: Restored) -> None:
    batch_harness = BatchHarness(restored.domain, "singles")
    held = {restored.job_id("on_parked_account"), restored.job_id("on_parked_operator")}
    assert held.isdisjoint({claim.job_id for claim in batch_harness.start(500)})
    for model in ("parked-by-account", "parked-by-operator"):
        assert restored.post("operator", f"/v1/models/{model}/resume")["parked"] is False
    assert held <= {claim.job_id for claim in batch_harness.start(500)}


def test_open_batches_are_read_resumed_approved_and_completed(restored: Restored) -> None:
    batch_harness = BatchHarness(restored.domain, "batches")
    ingesting, running = restored.batch_id("ingesting"), restored.batch_id("running")
    restored.clock.advance(60)  # a lease on the reading would have ended
    assert batch_harness.read(ingesting).counts.queued == 3
    restored.post("batches", f"/v1/batches/{restored.batch_id('paused')}/resume")
    restored.post("batches", f"/v1/batches/{restored.batch_id('awaiting_approval')}/approve", json={"steps": 8})
    assert batch_harness.job(restored.batch_id("awaiting_approval"), 3).steps == 8
    restored.take_back()
    batch_harness.work()
    assert restored.batch("running")["state"] == "awaiting_approval"
    restored.post("batches", f"/v1/batches/{running}/approve")
    batch_harness.work()
    for state in ("ingesting", "running", "paused", "awaiting_approval"):
        batch = restored.batch(state)
        assert (batch["state"], batch["counts"]["succeeded"]) == ("completed", batch["counts"]["total"]), state
        assert batch_harness.do(TaskKind.RESULTS, batch["id"]) == "done"
    assert restored.batch("running")["results"]["jsonl"].startswith("s3://")


def test_a_schedule_fires_at_its_next_tick_and_its_runs_end(restored: Restored) -> None:
    domain, active = restored.domain, restored.schedule_id("active")
    timetable = Timetable(domain, restored.clock, "planned")
    before = timetable.states(active)
    assert before == ["completed", "running"]
    next_run_at = timetable.schedule(active).next_run_at
    assert next_run_at is not None
    restored.take_back()
    timetable.set(next_run_at)
    assert timetable.fire() == 2
    assert timetable.states(active) == ["completed", "running", "queued"]
    timetable.finish()
    assert timetable.states(active) == ["completed", "completed", "completed"]
    assert timetable.states(restored.schedule_id("prefix")) == ["completed", "unchanged", "unchanged"]
    resumed = restored.post("planned", f"/v1/schedules/{restored.schedule_id('paused')}/resume")
    assert resumed["state"] == "active"
    assert resumed["next_run_at"] > moment(restored.clock.now_ms).isoformat()


def test_waiting_exhausted_and_unread_events_reach_their_receivers(restored: Restored, receiver: Receiver) -> None:
    deliveries = {delivery["state"]: delivery for delivery in restored.get("hooks", "/v1/deliveries?limit=100")["data"]}
    worn = restored.snapshot.named["endpoint_worn"]
    with webhook_runner(restored.domain) as webhooks:
        webhooks.deliver_all()
        (unread,) = receiver.wait_for(lambda got: len(got) == 1)
        secret = restored.get("singles", "/v1/webhook-secret")["secret"]
        assert unread.verified(secret)["data"]["id"] == restored.job_id("unread_event")
        restored.clock.advance(86_400)
        restored.domain.deliveries.register("webhooks", 8)
        webhooks.deliver_all()
        assert [got.path for got in receiver.requests] == ["/job", "/bad"]
        httpx.patch(
            f"{restored.origin}/v1/webhooks/{worn}",
            headers={"Authorization": f"Bearer {restored.snapshot.api_keys['hooks']}"},
            json={"enabled": True},
        ).raise_for_status()
        restored.post("hooks", f"/v1/deliveries/{deliveries['exhausted']['id']}/redeliver")
        # The API started the try at once and published it to a broker that has no consumer here: its lease must end.
        restored.clock.advance(60)
        restored.domain.deliveries.register("webhooks", 8)
        webhooks.deliver_all()
        assert [got.path for got in receiver.requests] == ["/job", "/bad", "/worn"]
    for one in deliveries.values():
        assert restored.get("hooks", f"/v1/deliveries/{one['id']}")["state"] == "succeeded"


def test_an_endpoint_keeps_its_sealed_secrets_and_headers(restored: Restored, receiver: Receiver) -> None:
    good = restored.snapshot.named["endpoint_good"]
    fresh = restored.post("hooks", f"/v1/webhooks/{good}/rotate-secret")["secret"]
    restored.post("hooks", f"/v1/webhooks/{good}/test")
    with webhook_runner(restored.domain) as webhooks:
        webhooks.deliver_all()
    got = next(request for request in receiver.requests if request.path == "/good")
    assert got.headers["x-shop"] == "made-up-header"
    got.verified(fresh)
    # The secrets that were replaced before the snapshot and since sign beside it.
    assert len(got.headers["webhook-signature"].split()) >= 2
