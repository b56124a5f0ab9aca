"""Operator commands: parking a model and setting a tenant's quotas."""

import pytest

from jobs.foundation.errors import InvalidInput, NotFound
from jobs.foundation.job_states import State
from jobs.plan.settlement import Signal
from jobs.tenants.quotas import Quotas
from tests.support.api_server import Api
from tests.support.plans import MODEL, Plans, model


def test_a_parked_model_starts_no_job_until_it_is_resumed(plans: Plans) -> None:
    jobs = plans.submit(3)
    (running,) = plans.start(limit=1)
    assert plans.planner.park(MODEL, "the account is being moved")
    assert not plans.planner.park(MODEL, "again")
    assert plans.plan() == []
    assert plans.end(running)
    plans.clock.advance(3600)
    plans.beat()
    assert plans.plan() == []
    assert plans.planner.resume(MODEL)
    assert [dispatch.job_id for dispatch in plans.plan()] == jobs[1:]
    types = [event["type"] for event in plans.outbox()]
    assert types == ["model.parked", "model.resumed"]
    with pytest.raises(InvalidInput):
        plans.planner.park("no-such-model", "x")


def test_a_refused_key_parks_the_model_and_a_probe_after_a_growing_pause_resumes_it(plans: Plans) -> None:
    refused = Signal("park", code="model_parked", reason="the key was refused (401): renew STEP_API_KEY")
    plans.submit(5)
    for claim in plans.start(limit=2):
        plans.end(claim, State.QUEUED, signal=refused)
    assert plans.plan() == []
    pauses = []
    for _ in range(3):
        wait = plans.planner.plan().next_in_s
        assert wait is not None
        pauses.append(round(wait))
        advance(plans, wait)
        (probe,) = plans.start()
        assert plans.plan() == []
        plans.end(probe, State.QUEUED, signal=refused)
    assert pauses == [5, 10, 20]
    advance(plans, 40)
    (probe,) = plans.start()
    assert probe.tries == 0
    plans.end(probe)
    assert len(plans.plan()) == 4
    assert plans.model_field("parked") is None


def test_a_tenant_at_its_limit_in_flight_waits_and_another_does_not(make_plans) -> None:
    plans = make_plans(model(concurrency=10))
    plans.quotas.set("acme", Quotas(max_in_flight=2))
    plans.submit(6, "acme")
    plans.submit(3, "globex")
    claims = plans.start()
    owners = [claim.tenant for claim in claims]
    assert (owners.count("acme"), owners.count("globex")) == (2, 3)
    assert plans.plan() == []
    plans.end(next(claim for claim in claims if claim.tenant == "acme"))
    assert [plans.claim(dispatch).tenant for dispatch in plans.plan()] == ["acme"]


def test_quotas_are_read_and_removed(plans: Plans) -> None:
    plans.quotas.set("acme", Quotas(max_queued=5, max_daily=7))
    assert plans.quotas.get("acme") == Quotas(max_queued=5, max_daily=7)
    plans.quotas.set("acme", Quotas())
    assert plans.quotas.get("acme") == Quotas()
    with pytest.raises(NotFound):
        plans.quotas.get("nobody")


def test_only_an_admin_key_parks_models_and_sets_quotas(api: Api) -> None:
    user, admin = (
        {"Authorization": f"Bearer {api.domain.api_keys.create('acme', admin=is_admin)}"} for is_admin in (False, True)
    )
    for method, path, body in (
        ("POST", f"/v1/models/{MODEL}/park", {"reason": "by hand"}),
        ("POST", f"/v1/models/{MODEL}/resume", None),
        ("PUT", "/v1/tenants/acme", {"max_queued": 1}),
        ("GET", "/v1/tenants", None),
    ):
        assert api.http.request(method, path, json=body, headers=user).status_code == 403
        assert api.http.request(method, path, json=body, headers=admin).is_success
    assert api.http.post("/v1/models/nothing/park", headers=admin).status_code == 404
    assert api.http.get("/v1/tenants/acme", headers=admin).json()["quotas"]["max_queued"] == 1


def advance(plans: Plans, seconds: float) -> None:
    """Time passes while the worker's pulse goes on."""
    while seconds > 0:
        step = min(5, seconds)
        plans.clock.advance(step)
        plans.beat()
        seconds -= step
