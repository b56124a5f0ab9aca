"""A batch from its manifest to its end: each row once, counts that add up, actions independent of its size."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.batches.models import BatchState, Changes
from jobs.foundation.errors import Conflict, InvalidInput, NotFound
from jobs.foundation.ids import batch_job_id
from jobs.foundation.job_states import State
from jobs.foundation.settings import Settings
from jobs.plan.records import Dispatch
from jobs.queueing.background_tasks import TaskKind
from jobs.wiring import Domain
from tests.support.batches import BatchHarness, adds_up, generous


@pytest.fixture
def domain(make_settings: Callable[..., Settings], tmp_path: Path) -> Iterator[Domain]:
    with generous(make_settings, tmp_path) as opened:
        yield opened


@pytest.fixture
def batch_harness(domain: Domain) -> BatchHarness:
    return BatchHarness(domain)


def test_a_manifest_becomes_jobs_and_the_last_one_completes_the_batch_once(batch_harness: BatchHarness) -> None:
    batch_id = batch_harness.upload(batch_harness.csv(3))
    assert batch_harness.batch(batch_id).state is BatchState.INGESTING
    read = batch_harness.read(batch_id)
    assert (read.state, read.counts.total, read.counts.queued) == (BatchState.RUNNING, 3, 3)
    assert batch_harness.job(batch_id, 2).custom_id == "SKU-2"
    assert batch_harness.job(batch_id, 2).prompt == "Put it on a white background"
    assert batch_harness.work() == 3
    done = batch_harness.batch(batch_id)
    assert (done.state, done.counts.succeeded, done.progress) == (BatchState.COMPLETED, 3, 1.0)
    assert batch_harness.events() == ["batch.completed"]


def test_a_row_is_stored_once_without_the_shared_defaults(batch_harness: BatchHarness) -> None:
    batch_id = batch_harness.running(2, defaults={"steps": 8, "metadata": {"season": "winter"}})
    stored = batch_harness.domain.redis.hget(batch_harness.domain.keys.job(batch_job_id(batch_id, 1)), "spec")
    assert "winter" not in str(stored)
    assert "white" not in str(stored)
    job = batch_harness.job(batch_id, 1)
    assert (job.steps, job.metadata) == (8, {"season": "winter"})
    assert job.seed is not None


def test_a_bad_row_is_rejected_with_its_line_field_and_reason(batch_harness: BatchHarness) -> None:
    data = batch_harness.csv(1) + b"SKU-2,ftp://nowhere/x.png\nSKU-1,s3://retouch/in/9.png\n,ftp://nowhere/y.png\n"
    batch_id = batch_harness.running(data)
    batch = batch_harness.batch(batch_id)
    assert (batch.counts.total, batch.counts.rejected, batch.counts.queued) == (4, 3, 1)
    rejects = list(batch_harness.domain.batches.rejects(batch_id))
    assert [(reject.row, reject.line, reject.custom_id, reject.errors[0]["field"]) for reject in rejects] == [
        (2, 3, "SKU-2", "image"),
        (3, 4, "SKU-1", "custom_id"),
        (4, 5, None, "image"),
    ]
    assert rejects[1].errors == [{"field": "custom_id", "message": "row 1 has it already", "code": "repeated"}]


def test_a_repeated_row_without_custom_id_is_stored_with_null(batch_harness: BatchHarness) -> None:
    data = b"image,output_key\ns3://retouch/a.png,shop/x.png\ns3://retouch/b.png,shop/x.png\n"
    batch_id = batch_harness.running(data)
    texts: Any = batch_harness.domain.redis.lrange(batch_harness.domain.keys.batch_rejects(batch_id), 0, -1)
    assert [json.loads(text) for text in texts] == [
        {
            "row": 2,
            "line": 3,
            "custom_id": None,
            "errors": [
                {"field": "output_key", "message": "an earlier row has the same output key", "code": "repeated"}
            ],
        }
    ]


def test_two_rows_with_one_output_key_are_not_both_edited(batch_harness: BatchHarness) -> None:
    data = b"custom_id,image,output_key\nA,s3://retouch/a.png,shop/x.png\nB,s3://retouch/b.png,shop/x.png\n"
    batch_id = batch_harness.running(data)
    (reject,) = batch_harness.domain.batches.rejects(batch_id)
    assert (reject.row, reject.errors[0]["field"]) == (2, "output_key")


def test_a_manifest_without_a_valid_row_fails_the_batch(batch_harness: BatchHarness) -> None:
    batch_id = batch_harness.running(b"custom_id,image\nA,nowhere\n")
    batch = batch_harness.batch(batch_id)
    assert (batch.state, batch.counts.rejected) == (BatchState.FAILED, 1)
    assert "no row" in str(batch.reason)
    assert batch_harness.events() == ["batch.failed"]


def test_a_manifest_that_cannot_be_read_fails_the_batch_with_its_reason(batch_harness: BatchHarness) -> None:
    batch = batch_harness.batch(batch_harness.running(b""))
    assert (batch.state, batch.reason) == (BatchState.FAILED, "the manifest is empty")


def test_a_reader_continues_at_the_row_where_another_was_killed(
    batch_harness: BatchHarness, monkeypatch: pytest.MonkeyPatch, domain: Domain
) -> None:
    monkeypatch.setattr("jobs.batches.ingest.CHUNK", 10)
    batch_id = batch_harness.upload(batch_harness.csv(95))
    run = domain.scripts.run
    writes = 0

    def killed_at_the_fifth(name: str, *args: Any) -> Any:
        nonlocal writes
        writes += name == "batches/add_rows"
        if writes == 5:
            raise SystemExit
        return run(name, *args)

    monkeypatch.setattr(domain.scripts, "run", killed_at_the_fifth)
    with pytest.raises(SystemExit):
        batch_harness.do(TaskKind.INGEST, batch_id)
    monkeypatch.setattr(domain.scripts, "run", run)
    assert batch_harness.batch(batch_id).counts.total == 40
    assert batch_harness.do(TaskKind.INGEST, batch_id).startswith("dropped")  # its lease lives on
    domain.redis.hdel(domain.keys.batch(batch_id), "u:ingest")
    assert batch_harness.read(batch_id).counts.queued == 95
    assert batch_harness.work() == 95
    assert batch_harness.batch(batch_id).counts.succeeded == 95


def test_an_ingest_that_lost_its_lease_writes_no_more_rows(
    batch_harness: BatchHarness, monkeypatch: pytest.MonkeyPatch, domain: Domain
) -> None:
    monkeypatch.setattr("jobs.batches.ingest.CHUNK", 10)
    batch_id = batch_harness.upload(batch_harness.csv(50))
    run = domain.scripts.run
    overtaken = False

    def overtake(name: str, *args: Any) -> Any:
        nonlocal overtaken
        if name == "batches/add_rows" and not overtaken:
            overtaken = True
            domain.redis.hdel(domain.keys.batch(batch_id), "u:ingest")
            assert batch_harness.read(batch_id).counts.queued == 50
        return run(name, *args)

    monkeypatch.setattr(domain.scripts, "run", overtake)
    batch_harness.do(TaskKind.INGEST, batch_id)
    batch = batch_harness.batch(batch_id)
    assert (batch.counts.total, batch.counts.queued, batch.state) == (50, 50, BatchState.RUNNING)


def test_a_trial_runs_first_and_the_rest_waits_for_approval(batch_harness: BatchHarness) -> None:
    batch_id = batch_harness.running(10, trial=3)
    assert batch_harness.work() == 3
    batch = batch_harness.batch(batch_id)
    assert (batch.state, batch.counts.succeeded, batch.counts.queued) == (BatchState.AWAITING_APPROVAL, 3, 7)
    assert batch.estimated_cost_usd == pytest.approx(7 * 0.003)
    assert batch_harness.events() == ["batch.awaiting_approval"]
    assert batch_harness.domain.batches.approve("acme", batch_id).state is BatchState.RUNNING
    assert batch_harness.work() == 7
    assert batch_harness.events() == ["batch.awaiting_approval", "batch.completed"]


def test_approval_changes_the_rest_but_not_the_trial(batch_harness: BatchHarness) -> None:
    batch_id = batch_harness.running(4, trial=1)
    batch_harness.work()
    batch_harness.domain.batches.approve("acme", batch_id, Changes(prompt="On marble", cfg_scale=4))
    claims = batch_harness.start()
    assert {claim.spec.prompt for claim in claims} == {"On marble"}
    assert {claim.spec.cfg_scale for claim in claims} == {4.0}
    assert batch_harness.job(batch_id, 1).prompt == "Put it on a white background"
    assert batch_harness.job(batch_id, 2).prompt == "On marble"


def test_a_change_that_the_model_does_not_take_is_refused(batch_harness: BatchHarness) -> None:
    batch_id = batch_harness.running(4, trial=1)
    batch_harness.work()
    with pytest.raises(InvalidInput, match="steps"):
        batch_harness.domain.batches.approve("acme", batch_id, Changes(steps=100_000))
    assert batch_harness.batch(batch_id).state is BatchState.AWAITING_APPROVAL


def test_a_random_trial_picks_the_requested_number_of_rows(batch_harness: BatchHarness) -> None:
    batch_id = batch_harness.running(200, trial=20, trial_sample="random")
    assert batch_harness.work() == 20
    done = [row for row in range(1, 201) if batch_harness.job(batch_id, row).state is State.SUCCEEDED]
    assert done != list(range(1, 21))
    assert batch_harness.batch(batch_id).state is BatchState.AWAITING_APPROVAL


def test_a_trial_of_everything_needs_no_approval(batch_harness: BatchHarness) -> None:
    batch_id = batch_harness.running(2, trial=5)
    assert batch_harness.work() == 2
    assert batch_harness.batch(batch_id).state is BatchState.COMPLETED


def test_canceling_after_the_trial_stops_spending(batch_harness: BatchHarness) -> None:
    batch_id = batch_harness.running(10, trial=3)
    batch_harness.work()
    batch_harness.domain.batches.cancel("acme", batch_id)
    assert batch_harness.start() == []
    assert batch_harness.batch(batch_id).counts.canceled == 7


def test_a_paused_batch_starts_no_job_and_running_jobs_continue(batch_harness: BatchHarness) -> None:
    batch_id = batch_harness.running(5)
    (running,) = batch_harness.start(limit=1)
    assert batch_harness.domain.batches.pause("acme", batch_id).state is BatchState.PAUSED
    assert batch_harness.start() == []
    assert batch_harness.end(running)
    assert batch_harness.domain.batches.resume("acme", batch_id).state is BatchState.RUNNING
    assert batch_harness.work() == 4
    assert batch_harness.events() == ["batch.paused", "batch.completed"]


def test_rows_read_while_a_batch_is_paused_wait(batch_harness: BatchHarness) -> None:
    batch_id = batch_harness.upload(batch_harness.csv(5))
    batch_harness.domain.batches.pause("acme", batch_id)
    assert batch_harness.read(batch_id).state is BatchState.PAUSED
    assert batch_harness.start() == []
    batch_harness.domain.batches.resume("acme", batch_id)
    assert batch_harness.work() == 5


def test_other_batches_of_the_tenant_continue_while_one_is_paused(batch_harness: BatchHarness) -> None:
    held, other = batch_harness.running(3), batch_harness.running(3)
    batch_harness.domain.batches.pause("acme", held)
    assert batch_harness.work() == 3
    assert batch_harness.batch(other).state is BatchState.COMPLETED


def test_cancel_takes_effect_before_the_records_follow(batch_harness: BatchHarness, domain: Domain) -> None:
    batch_id = batch_harness.running(30)
    running = batch_harness.start(limit=5)
    batch = domain.batches.cancel("acme", batch_id)
    assert (batch.state, batch.counts.canceled, batch.counts.queued) == (BatchState.CANCELED, 30, 0)
    assert batch_harness.job(batch_id, 20).state is State.CANCELED
    assert batch_harness.job(batch_id, 1).state is State.CANCELED
    assert batch_harness.start() == []
    assert len(domain.job_reader.page("acme", batch_id=batch_id, state=State.CANCELED).data) == 30
    assert domain.job_reader.page("acme", batch_id=batch_id, state=State.QUEUED).data == []
    held = [Dispatch(claim.job_id, claim.attempt) for claim in running]
    assert set(domain.planner.renew("hands", slots=10, worker_info="{}", held=held)) == set(held)
    assert not batch_harness.end(running[0])
    batch_harness.do(TaskKind.SWEEP, batch_id)
    stored = [domain.redis.hget(domain.keys.job(batch_job_id(batch_id, row)), "state") for row in range(1, 31)]
    assert set(stored) == {"canceled"}
    assert batch_harness.batch(batch_id).counts.canceled == 30
    assert batch_harness.events() == ["batch.canceled"]


def test_a_sweep_continues_where_another_was_killed(batch_harness: BatchHarness, domain: Domain) -> None:
    batch_id = batch_harness.running(30)
    domain.batches.cancel("acme", batch_id)
    with domain.background_tasks.hold(TaskKind.SWEEP, batch_id) as held:
        assert held is not None
        assert domain.batches.sweep(batch_id, held.number, limit=7) == 0
    domain.redis.hdel(domain.keys.batch(batch_id), "u:sweep")
    batch_harness.do(TaskKind.SWEEP, batch_id)
    stored = [domain.redis.hget(domain.keys.job(batch_job_id(batch_id, row)), "state") for row in range(1, 31)]
    assert set(stored) == {"canceled"}


def test_retry_queues_the_failed_jobs_and_the_second_end_sends_an_event(
    batch_harness: BatchHarness, domain: Domain
) -> None:
    batch_id = batch_harness.running(6)
    for number, claim in enumerate(batch_harness.start()):
        batch_harness.end(claim, State.FAILED if number % 2 else State.SUCCEEDED)
    assert batch_harness.batch(batch_id).state is BatchState.COMPLETED
    again = domain.batches.retry("acme", batch_id, [State.FAILED])
    assert (again.state, again.retrying) == (BatchState.RUNNING, True)
    batch_harness.do(TaskKind.SWEEP, batch_id)
    assert batch_harness.batch(batch_id).counts.queued == 3
    assert batch_harness.work() == 3
    batch = batch_harness.batch(batch_id)
    assert (batch.state, batch.counts.succeeded, batch.counts.failed) == (BatchState.COMPLETED, 6, 0)
    assert batch_harness.events() == ["batch.completed", "batch.completed"]


def test_a_job_that_fails_during_a_retry_is_not_retried_forever(batch_harness: BatchHarness, domain: Domain) -> None:
    batch_id = batch_harness.running(4)
    batch_harness.work(State.FAILED)
    domain.batches.retry("acme", batch_id, [State.FAILED])
    with domain.background_tasks.hold(TaskKind.SWEEP, batch_id) as held:
        assert held is not None
        domain.batches.sweep(batch_id, held.number, limit=2)
        batch_harness.work(State.FAILED)
        while domain.batches.sweep(batch_id, held.number, limit=2) == 0:
            pass
    batch_harness.work(State.FAILED)
    attempts = [len(batch_harness.job(batch_id, row).attempts) for row in range(1, 5)]
    assert attempts == [2, 2, 2, 2]
    assert batch_harness.batch(batch_id).state is BatchState.COMPLETED


def test_a_canceled_batch_can_be_retried_after_its_sweep(batch_harness: BatchHarness, domain: Domain) -> None:
    batch_id = batch_harness.running(4)
    domain.batches.cancel("acme", batch_id)
    with pytest.raises(Conflict, match="busy"):
        domain.batches.retry("acme", batch_id, [State.CANCELED])
    batch_harness.do(TaskKind.SWEEP, batch_id)
    domain.batches.retry("acme", batch_id, [State.CANCELED])
    batch_harness.do(TaskKind.SWEEP, batch_id)
    assert batch_harness.work() == 4
    assert batch_harness.batch(batch_id).state is BatchState.COMPLETED


def test_retrying_one_job_reopens_its_batch(batch_harness: BatchHarness, domain: Domain) -> None:
    batch_id = batch_harness.running(2)
    batch_harness.work(State.FAILED)
    domain.planner.retry(batch_job_id(batch_id, 1))
    assert batch_harness.batch(batch_id).state is BatchState.RUNNING
    assert batch_harness.work() == 1
    assert batch_harness.batch(batch_id).counts.succeeded == 1


def test_a_budget_stops_the_batch_before_it_is_exceeded(batch_harness: BatchHarness, domain: Domain) -> None:
    batch_id = batch_harness.running(10, budget_usd=0.0125)
    assert batch_harness.work(cost_micro_usd=3000) == 4
    batch = batch_harness.batch(batch_id)
    assert (batch.state, batch.reason) == (BatchState.PAUSED, "budget")
    assert batch.cost_usd == pytest.approx(0.012)
    assert batch_harness.events() == ["batch.paused"]
    with pytest.raises(Conflict, match="budget"):
        domain.batches.resume("acme", batch_id)
    domain.batches.resume("acme", batch_id, budget_usd=1)
    assert batch_harness.work(cost_micro_usd=3000) == 6
    assert batch_harness.batch(batch_id).state is BatchState.COMPLETED


def test_running_calls_count_against_the_budget(batch_harness: BatchHarness) -> None:
    batch_id = batch_harness.running(10, budget_usd=0.009)
    assert len(batch_harness.start()) == 3
    assert batch_harness.batch(batch_id).reason == "budget"


def test_an_edit_that_cost_nothing_releases_its_reservation(batch_harness: BatchHarness) -> None:
    batch_id = batch_harness.running(3, budget_usd=0.003)
    (claim,) = batch_harness.start()
    batch_harness.end(claim, State.FAILED)
    batch_harness.domain.batches.resume("acme", batch_id)
    assert len(batch_harness.start()) == 1


def test_a_call_of_unknown_outcome_counts_as_spent(batch_harness: BatchHarness, domain: Domain) -> None:
    batch_id = batch_harness.running(3, budget_usd=0.005)
    (claim,) = batch_harness.start(limit=1)
    batch_harness.end(claim, State.FAILED, cost_micro_usd=3000)
    assert batch_harness.start() == []
    assert batch_harness.batch(batch_id).reason == "budget"
    with pytest.raises(Conflict, match="budget"):
        domain.batches.resume("acme", batch_id)


def test_actions_that_the_state_does_not_allow_are_refused(batch_harness: BatchHarness, domain: Domain) -> None:
    batch_id = batch_harness.running(1)
    with pytest.raises(Conflict):
        domain.batches.resume("acme", batch_id)
    with pytest.raises(Conflict):
        domain.batches.approve("acme", batch_id)
    batch_harness.work()
    for act in (domain.batches.pause, domain.batches.cancel):
        with pytest.raises(Conflict, match="completed"):
            act("acme", batch_id)
    with pytest.raises(NotFound):
        domain.batches.cancel("globex", batch_id)


def test_batches_are_listed_newest_first_a_page_at_a_time(batch_harness: BatchHarness, domain: Domain) -> None:
    batch_ids = [batch_harness.upload(batch_harness.csv(1)) for _ in range(5)]
    page = domain.batches.page("acme", limit=3)
    rest = domain.batches.page("acme", limit=3, cursor=page.next_cursor)
    assert [batch.id for batch in (*page.data, *rest.data)] == batch_ids[::-1]
    assert rest.next_cursor is None


def test_counts_add_up_after_every_kind_of_end(batch_harness: BatchHarness, domain: Domain) -> None:
    batch_id = batch_harness.running(batch_harness.csv(40) + b"SKU-1,s3://retouch/x.png\n")
    claims = batch_harness.start(limit=20)
    for number, claim in enumerate(claims):
        batch_harness.end(claim, (State.SUCCEEDED, State.FAILED, State.FILTERED)[number % 3])
        assert adds_up(batch_harness.batch(batch_id))
    domain.planner.cancel(batch_job_id(batch_id, 40))
    assert adds_up(batch_harness.batch(batch_id))
    domain.batches.pause("acme", batch_id)
    domain.batches.retry("acme", batch_id, [State.FAILED, State.FILTERED])
    batch_harness.do(TaskKind.SWEEP, batch_id)
    domain.batches.resume("acme", batch_id)
    batch_harness.work()
    batch = batch_harness.batch(batch_id)
    assert adds_up(batch)
    assert (batch.counts.succeeded, batch.counts.canceled, batch.counts.total) == (39, 1, 41)
    assert batch.state is BatchState.COMPLETED
