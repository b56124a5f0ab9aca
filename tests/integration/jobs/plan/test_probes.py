"""Probes of a parked model: no outage uses up a job's tries, and no single job keeps its model parked."""

from jobs.foundation.errors import Transient
from jobs.foundation.job_states import State
from jobs.foundation.values import moment
from jobs.plan.records import Claim
from jobs.plan.retry_decision import History, decide
from tests.support.plans import MODEL, Plans, model

MOST = model().max_attempts
DOWN = Transient("503", provider_status=503)


def fails(plans: Plans, claim: Claim) -> State:
    """One attempt while the endpoint is down."""
    now = moment(plans.clock.now_ms)
    history = History(claim.attempt, claim.tries, MOST, claim.deadline, claim.probe)
    settlement = decide(DOWN, history, now, 0.5)
    assert plans.planner.settle(claim, settlement, finished_at=now)
    return plans.state(claim.job_id)


def park(plans: Plans) -> None:
    """Twenty failures in a row, of other jobs than the test's."""
    plans.submit(20, tenant="globex")
    while plans.model_field("parked") is None:
        for claim in plans.start():
            fails(plans, claim)
        plans.clock.advance(1)
        plans.beat()
    assert plans.model_field("parked") == "failing"


def probe(plans: Plans) -> Claim:
    """The next one to go out, whenever that is."""
    while True:
        plans.beat()
        plan = plans.planner.plan()
        if plan.dispatches:
            assert len(plan.dispatches) == 1
            return plans.claim(plan.dispatches[0])
        plans.clock.advance(plan.next_in_s or 1)


def test_an_outage_of_hours_uses_up_no_job(plans: Plans) -> None:
    park(plans)
    jobs = plans.submit(3)
    seen = set()
    for _ in range(4 * MOST):
        claim = probe(plans)
        assert claim.probe
        seen.add(claim.job_id)
        assert fails(plans, claim) is State.WAITING
    assert seen & set(jobs)
    assert plans.end(probe(plans))
    assert plans.model_field("parked") is None
    ended = 0
    while ended < 22:
        plans.clock.advance(1)
        plans.beat()
        for claim in plans.start():
            assert plans.end(claim)
            ended += 1
    assert plans.redis.hget(plans.keys.totals(MODEL), "ended:failed") is None


def test_an_outage_that_three_jobs_meet_fails_no_job(plans: Plans) -> None:
    jobs = plans.submit(3)
    while plans.model_field("parked") is None:
        for claim in plans.start():
            fails(plans, claim)
        plans.clock.advance(1)
        plans.beat()
    assert {plans.state(job_id) for job_id in jobs} <= {State.WAITING, State.QUEUED}


def test_a_job_that_always_fails_does_not_keep_its_model_parked(plans: Plans) -> None:
    park(plans)
    for _ in range(2 * MOST):
        first = probe(plans)
        assert fails(plans, first) is State.WAITING
        second = probe(plans)
        assert second.job_id != first.job_id
        assert fails(plans, second) is State.WAITING


def test_a_models_only_job_probes_it_again(plans: Plans) -> None:
    park(plans)
    for job in plans.job_reader.page("globex", limit=50).data[1:]:
        plans.planner.cancel(job.id)
    first = probe(plans)
    fails(plans, first)
    assert probe(plans).job_id == first.job_id
