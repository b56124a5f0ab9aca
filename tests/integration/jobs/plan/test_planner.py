"""The plan's promises for one job: durable, started once, fenced, and reported by events."""

from datetime import timedelta

import pytest
from redis.exceptions import ResponseError

from jobs.foundation.errors import Conflict, IdempotencyMismatch, NotFound, QuotaExceeded
from jobs.foundation.job_states import FINAL, State
from jobs.foundation.values import moment
from jobs.plan.records import Dispatch, Idempotency
from jobs.plan.settlement import OK
from jobs.records.job_models import Checkpoint
from jobs.tenants.quotas import Quotas
from tests.support.plans import MODEL, Plans, model


def test_a_job_goes_from_submit_to_its_end(plans: Plans) -> None:
    (job_id,) = plans.submit()
    assert plans.state(job_id) is State.QUEUED
    (dispatch,) = plans.plan()
    assert dispatch == Dispatch(job_id, 1)
    assert plans.state(job_id) is State.RUNNING
    claim = plans.claim(dispatch)
    assert claim.tenant == "acme"
    assert plans.end(claim)
    job = plans.job_reader.get("acme", job_id)
    assert job.state is State.SUCCEEDED
    assert [attempt.outcome for attempt in job.attempts] == ["succeeded"]
    assert job.finished_at == moment(plans.clock.now_ms)


def test_only_the_first_of_two_claims_gets_the_attempt(plans: Plans) -> None:
    plans.submit()
    (dispatch,) = plans.plan()
    plans.claim(dispatch)
    assert plans.planner.claim(dispatch.job_id, dispatch.attempt, "w2") is None


def test_a_late_attempt_can_neither_checkpoint_nor_settle(plans: Plans) -> None:
    (job_id,) = plans.submit()
    (old,) = plans.start()
    expire(plans)
    (new,) = plans.start()
    assert (new.job_id, new.attempt) == (job_id, 2)
    answer = Checkpoint(kind="url", url="http://r", at=moment(plans.clock.now_ms), attempt=1)
    assert not plans.planner.checkpoint(old, answer)
    assert not plans.end(old, State.FAILED)
    assert plans.state(job_id) is State.RUNNING
    assert plans.end(new)


def test_a_checkpoint_outlives_the_attempt_that_recorded_it(plans: Plans) -> None:
    plans.submit()
    (claim,) = plans.start()
    answer = Checkpoint(kind="url", url="http://r", at=moment(plans.clock.now_ms), attempt=1, seed=7)
    assert plans.planner.checkpoint(claim, answer, cost_micro_usd=3000)
    expire(plans)
    (again,) = plans.start()
    assert again.checkpoint == answer
    assert plans.job_reader.get("acme", claim.job_id).cost_usd == pytest.approx(0.003)


def test_the_cost_of_an_attempt_counts_once_if_it_is_reported_twice(plans: Plans) -> None:
    plans.submit()
    (claim,) = plans.start()
    answer = Checkpoint(kind="url", url="http://r", at=moment(plans.clock.now_ms), attempt=1)
    for _ in range(3):
        plans.planner.checkpoint(claim, answer, cost_micro_usd=3000)
    assert plans.job_reader.get("acme", claim.job_id).cost_usd == pytest.approx(0.003)


def test_a_lost_lease_returns_the_job_to_the_head_of_its_lane(plans: Plans) -> None:
    first, second = plans.submit(2)
    plans.plan(limit=1)
    expire(plans)
    assert [dispatch.job_id for dispatch in plans.plan()] == [first, second]


def test_a_message_lost_by_the_broker_uses_up_no_try(plans: Plans) -> None:
    (job_id,) = plans.submit()
    for _ in range(5):
        plans.plan()
        expire(plans)
    (claim,) = plans.start()
    assert (claim.job_id, claim.tries) == (job_id, 0)


def test_a_job_that_lost_its_worker_three_times_fails_as_worker_lost(plans: Plans) -> None:
    (job_id,) = plans.submit()
    for _ in range(3):
        plans.start()
        expire(plans)
    plans.plan()
    job = plans.job_reader.get("acme", job_id)
    assert job.state is State.FAILED
    assert job.error is not None
    assert job.error.code == "worker_lost"
    assert [attempt.outcome for attempt in job.attempts] == ["lease_lost"] * 3


def test_a_renewed_lease_does_not_expire(plans: Plans) -> None:
    plans.submit()
    (claim,) = plans.start()
    for _ in range(10):
        plans.clock.advance(9)
        assert plans.beat(Dispatch(claim.job_id, claim.attempt)) == []
        assert plans.plan() == []
    assert plans.end(claim)


def test_after_a_silence_of_the_whole_fleet_leases_live_one_lease_longer(plans: Plans) -> None:
    plans.submit()
    (claim,) = plans.start()
    plans.clock.advance(60)
    assert plans.plan() == []
    assert plans.beat(Dispatch(claim.job_id, claim.attempt)) == []
    assert plans.end(claim)


def test_a_heartbeat_returns_a_canceled_job_which_stays_in_the_window_until_settled(plans: Plans) -> None:
    (job_id,) = plans.submit()
    (claim,) = plans.start()
    plans.planner.cancel(job_id)
    assert plans.model_field("in_flight") == "1"
    assert plans.beat(Dispatch(job_id, 1)) == [Dispatch(job_id, 1)]
    assert not plans.end(claim)
    assert plans.model_field("in_flight") == "0"
    assert plans.state(job_id) is State.CANCELED


def test_a_job_with_not_before_waits_until_then(plans: Plans) -> None:
    at = moment(plans.clock.now_ms) + timedelta(seconds=60)
    (job_id,) = plans.submit(not_before=at)
    assert plans.state(job_id) is State.WAITING
    assert plans.planner.plan().next_in_s == pytest.approx(60)
    plans.clock.advance(60)
    plans.beat()
    assert [dispatch.job_id for dispatch in plans.plan()] == [job_id]


def test_a_retry_waits_until_it_is_due_and_precedes_untried_jobs(plans: Plans) -> None:
    first, second = plans.submit(2)
    (claim,) = plans.start(limit=1)
    plans.end(claim, State.WAITING, delay_ms=5000, signal=None)
    assert plans.state(first) is State.WAITING
    plans.clock.advance(5)
    assert [dispatch.job_id for dispatch in plans.plan()] == [first, second]


def test_a_deadline_ends_a_job_that_could_not_start(plans: Plans) -> None:
    plans.slots = 0
    plans.beat()
    (job_id,) = plans.submit(deadline_s=5)
    plans.redis.zadd(plans.keys.deadlines, {plans.keys.job(job_id): plans.clock.now_ms + 5000})
    plans.plan()
    assert plans.state(job_id) is State.QUEUED
    plans.clock.advance(6)
    plans.plan()
    job = plans.job_reader.get("acme", job_id)
    assert job.state is State.FAILED
    assert job.error is not None
    assert job.error.code == "deadline_exceeded"


@pytest.mark.parametrize("end", [State.FAILED, State.FILTERED, State.CANCELED])
def test_a_user_can_retry_an_ended_job(plans: Plans, end: State) -> None:
    (job_id,) = plans.submit()
    if end is State.CANCELED:
        plans.planner.cancel(job_id)
    else:
        (claim,) = plans.start()
        plans.end(claim, end)
    assert plans.planner.retry(job_id) is State.QUEUED
    assert plans.redis.pttl(plans.keys.job(job_id)) == -1
    (claim,) = plans.start()
    assert claim.tries == 0
    assert plans.end(claim)


def test_a_command_that_the_state_does_not_allow_is_a_conflict(plans: Plans) -> None:
    (job_id,) = plans.submit()
    with pytest.raises(Conflict, match="queued"):
        plans.planner.retry(job_id)
    (claim,) = plans.start()
    plans.end(claim)
    for act in (plans.planner.cancel, plans.planner.retry):
        with pytest.raises(Conflict, match="succeeded"):
            act(job_id)
    with pytest.raises(NotFound):
        plans.planner.cancel("job_nothing")


def test_the_scripts_refuse_a_transition_that_the_table_does_not_have(plans: Plans) -> None:
    (job_id,) = plans.submit()
    (claim,) = plans.start()
    with pytest.raises(ResponseError, match="ILLEGAL transition running to new"):
        plans.scripts.run(
            "jobs/settle",
            [plans.keys.job(job_id)],
            [
                claim.attempt,
                '{"to":"new","drop":[],"delay_ms":0,"cost":0,"count":false,"signal":null}',
                "{}",
            ],
        )


def test_the_same_idempotency_key_and_body_answer_with_the_same_job(plans: Plans) -> None:
    key = Idempotency("k1", "b1")
    (first,) = plans.submit(idempotency=key)
    draft = plans.draft()
    again = plans.submitted([draft], idempotency=key)
    assert again.replayed
    assert again.job_ids == [first]
    assert plans.redis.exists(plans.keys.job(draft.job_id)) == 0
    with pytest.raises(IdempotencyMismatch):
        plans.submit(idempotency=Idempotency("k1", "b2"))


def test_a_submit_resent_by_the_connection_is_not_a_replay(plans: Plans) -> None:
    key, draft = Idempotency("k2", "b"), plans.draft()
    plans.tenants.ensure("acme")
    assert not plans.submitted([draft], idempotency=key).replayed
    assert not plans.submitted([draft], idempotency=key).replayed
    assert len(plans.plan()) == 1


def test_rows_written_twice_create_each_job_once(plans: Plans) -> None:
    plans.tenants.ensure("acme")
    drafts = [plans.draft(f"job_01ARZ3NDEKTSV4RRFFQ69G5FAV-{row:07d}") for row in range(1, 6)]
    plans.submitted(drafts[:3])
    plans.submitted(drafts)
    assert len(plans.plan()) == 5
    assert plans.plan() == []


def test_quotas_of_a_tenant_hold_at_submit(plans: Plans) -> None:
    plans.tenants.ensure("acme")
    plans.redis.hset(plans.keys.tenant("acme"), mapping={"max_queued": 2, "max_daily": 3})
    plans.submit(2)
    with pytest.raises(QuotaExceeded, match="2 jobs queued") as caught:
        plans.submit()
    assert caught.value.retry_after_s > 0
    for claim in plans.start():
        plans.end(claim)
    plans.submit()
    (claim,) = plans.start()
    plans.end(claim)
    with pytest.raises(QuotaExceeded, match="3 edits"):
        plans.submit()


def test_a_finished_record_expires_and_an_unfinished_one_does_not(plans: Plans) -> None:
    done, queued = plans.submit(2)
    (claim,) = plans.start(limit=1)
    plans.end(claim)
    assert plans.redis.pttl(plans.keys.job(done)) > 86_000_000
    assert plans.redis.pttl(plans.keys.job(queued)) == -1


def test_an_event_is_written_in_the_same_step_as_the_end_of_the_job(plans: Plans) -> None:
    plans.submit()
    (silent,) = plans.start()
    plans.end(silent)
    assert plans.redis.xlen(plans.keys.outbox) == 0
    (job_id,) = plans.submit(webhook_url="https://example.com/hook")
    (claim,) = plans.start()
    plans.end(claim)
    (event,) = plans.outbox()
    assert event["type"] == "job.succeeded"
    assert event["tenant"] == "acme"
    assert event["subject"] == plans.keys.job(job_id)


def test_listing_filters_by_state_and_custom_id_and_pages_from_the_newest(plans: Plans) -> None:
    job_ids = [plans.submit(custom_id=f"sku-{n % 2}")[0] for n in range(7)]
    for claim in plans.start(limit=3):
        plans.end(claim)
    listed: list[str] = []
    cursor = None
    while True:
        page = plans.job_reader.page("acme", limit=2, cursor=cursor)
        listed += [job.id for job in page.data]
        if (cursor := page.next_cursor) is None:
            break
    assert listed == sorted(job_ids, reverse=True)
    assert {job.id for job in plans.job_reader.page("acme", state=State.SUCCEEDED).data} == set(job_ids[:3])
    assert {job.id for job in plans.job_reader.page("acme", custom_id="sku-1").data} == set(job_ids[1::2])
    assert plans.job_reader.page("globex").data == []
    with pytest.raises(NotFound):
        plans.job_reader.get("globex", job_ids[0])


def test_every_final_state_removes_the_job_from_the_window(plans: Plans) -> None:
    plans.submit(len(FINAL) - 1)
    for claim, state in zip(plans.start(), sorted(FINAL - {State.CANCELED}), strict=True):
        plans.end(claim, state, signal=OK)
    assert plans.model_field("in_flight") == "0"
    assert plans.redis.zcard(plans.keys.leases) == 0


def test_nothing_starts_without_a_live_worker(make_plans) -> None:
    plans = make_plans(model(), slots=0)
    plans.submit()
    assert plans.plan() == []
    plans.slots = 1
    plans.beat()
    assert len(plans.plan()) == 1


def expire(plans: Plans) -> None:
    """Let the leases run out while the worker's pulse goes on without them."""
    for _ in range(4):
        plans.clock.advance(8)
        plans.beat()


def test_a_settlement_sent_again_after_a_lost_answer_returns_the_first_result(plans: Plans) -> None:
    plans.submit(2)
    for claim, to in zip(plans.start(), (State.SUCCEEDED, State.FAILED), strict=True):
        assert plans.end(claim, to)
        totals = plans.redis.hgetall(plans.keys.totals(MODEL))
        assert plans.end(claim, to)
        assert plans.redis.hgetall(plans.keys.totals(MODEL)) == totals
        assert not plans.end(claim, State.FILTERED)


def test_a_repeated_submit_does_not_count_twice_against_the_quota(plans: Plans) -> None:
    plans.quotas.set("acme", Quotas(max_queued=1, max_daily=1))
    draft = plans.draft()
    assert plans.submitted([draft]).job_ids == plans.submitted([draft]).job_ids
    with pytest.raises(QuotaExceeded):
        plans.submit(1)
