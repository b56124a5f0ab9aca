"""A batch from its manifest to its end: rows once, counts that add up, acts that do not depend on its size."""

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
from tests.support.batches import Hands, adds_up, generous


@pytest.fixture
def domain(make_settings: Callable[..., Settings], tmp_path: Path) -> Iterator[Domain]:
    with generous(make_settings, tmp_path) as opened:
        yield opened


@pytest.fixture
def hands(domain: Domain) -> Hands:
    return Hands(domain)


def test_a_manifest_becomes_jobs_and_the_last_one_completes_the_batch_once(hands: Hands) -> None:
    batch_id = hands.upload(hands.csv(3))
    assert hands.batch(batch_id).state is BatchState.INGESTING
    read = hands.read(batch_id)
    assert (read.state, read.counts.total, read.counts.queued) == (BatchState.RUNNING, 3, 3)
    assert hands.job(batch_id, 2).custom_id == "SKU-2"
    assert hands.job(batch_id, 2).prompt == "Put it on a white background"
    assert hands.work() == 3
    done = hands.batch(batch_id)
    assert (done.state, done.counts.succeeded, done.progress) == (BatchState.COMPLETED, 3, 1.0)
    assert hands.events() == ["batch.completed"]


def test_a_row_is_stored_once_without_the_shared_defaults(hands: Hands) -> None:
    batch_id = hands.running(2, defaults={"steps": 8, "metadata": {"season": "winter"}})
    stored = hands.domain.redis.hget(hands.domain.keys.job(batch_job_id(batch_id, 1)), "spec")
    assert "winter" not in str(stored)
    assert "white" not in str(stored)
    job = hands.job(batch_id, 1)
    assert (job.steps, job.metadata) == (8, {"season": "winter"})
    assert job.seed is not None


def test_bad_rows_are_refused_alone_with_line_field_and_reason(hands: Hands) -> None:
    data = hands.csv(1) + b"SKU-2,ftp://nowhere/x.png\nSKU-1,s3://retouch/in/9.png\n,ftp://nowhere/y.png\n"
    batch_id = hands.running(data)
    batch = hands.batch(batch_id)
    assert (batch.counts.total, batch.counts.rejected, batch.counts.queued) == (4, 3, 1)
    rejects = list(hands.domain.batches.rejects(batch_id))
    assert [(reject.row, reject.line, reject.custom_id, reject.errors[0]["field"]) for reject in rejects] == [
        (2, 3, "SKU-2", "image"),
        (3, 4, "SKU-1", "custom_id"),
        (4, 5, None, "image"),
    ]
    assert rejects[1].errors == [{"field": "custom_id", "message": "row 1 has it already", "code": "repeated"}]


def test_a_repeated_row_without_custom_id_is_stored_with_null(hands: Hands) -> None:
    data = b"image,output_key\ns3://retouch/a.png,shop/x.png\ns3://retouch/b.png,shop/x.png\n"
    batch_id = hands.running(data)
    texts: Any = hands.domain.redis.lrange(hands.domain.keys.batch_rejects(batch_id), 0, -1)
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


def test_two_rows_that_would_write_one_object_cannot_both_be_edited(hands: Hands) -> None:
    data = b"custom_id,image,output_key\nA,s3://retouch/a.png,shop/x.png\nB,s3://retouch/b.png,shop/x.png\n"
    batch_id = hands.running(data)
    (reject,) = hands.domain.batches.rejects(batch_id)
    assert (reject.row, reject.errors[0]["field"]) == (2, "output_key")


def test_a_manifest_without_a_good_row_fails_the_batch(hands: Hands) -> None:
    batch_id = hands.running(b"custom_id,image\nA,nowhere\n")
    batch = hands.batch(batch_id)
    assert (batch.state, batch.counts.rejected) == (BatchState.FAILED, 1)
    assert "no row" in str(batch.reason)
    assert hands.events() == ["batch.failed"]


def test_a_manifest_that_cannot_be_read_fails_the_batch_with_its_reason(hands: Hands) -> None:
    batch = hands.batch(hands.running(b""))
    assert (batch.state, batch.reason) == (BatchState.FAILED, "the manifest is empty")


def test_a_reader_goes_on_at_the_row_where_another_was_killed(
    hands: Hands, monkeypatch: pytest.MonkeyPatch, domain: Domain
) -> None:
    monkeypatch.setattr("jobs.batches.ingest.CHUNK", 10)
    batch_id = hands.upload(hands.csv(95))
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
        hands.do(TaskKind.INGEST, batch_id)
    monkeypatch.setattr(domain.scripts, "run", run)
    assert hands.batch(batch_id).counts.total == 40
    assert hands.do(TaskKind.INGEST, batch_id).startswith("dropped")  # its lease lives on
    domain.redis.hdel(domain.keys.batch(batch_id), "u:ingest")
    assert hands.read(batch_id).counts.queued == 95
    assert hands.work() == 95
    assert hands.batch(batch_id).counts.succeeded == 95


def test_an_ingest_that_lost_its_lease_writes_no_more_rows(
    hands: Hands, monkeypatch: pytest.MonkeyPatch, domain: Domain
) -> None:
    monkeypatch.setattr("jobs.batches.ingest.CHUNK", 10)
    batch_id = hands.upload(hands.csv(50))
    run = domain.scripts.run
    overtaken = False

    def overtake(name: str, *args: Any) -> Any:
        nonlocal overtaken
        if name == "batches/add_rows" and not overtaken:
            overtaken = True
            domain.redis.hdel(domain.keys.batch(batch_id), "u:ingest")
            assert hands.read(batch_id).counts.queued == 50
        return run(name, *args)

    monkeypatch.setattr(domain.scripts, "run", overtake)
    hands.do(TaskKind.INGEST, batch_id)
    batch = hands.batch(batch_id)
    assert (batch.counts.total, batch.counts.queued, batch.state) == (50, 50, BatchState.RUNNING)


def test_a_trial_runs_first_and_the_rest_waits_for_approval(hands: Hands) -> None:
    batch_id = hands.running(10, trial=3)
    assert hands.work() == 3
    batch = hands.batch(batch_id)
    assert (batch.state, batch.counts.succeeded, batch.counts.queued) == (BatchState.AWAITING_APPROVAL, 3, 7)
    assert batch.estimated_cost_usd == pytest.approx(7 * 0.003)
    assert hands.events() == ["batch.awaiting_approval"]
    assert hands.domain.batches.approve("acme", batch_id).state is BatchState.RUNNING
    assert hands.work() == 7
    assert hands.events() == ["batch.awaiting_approval", "batch.completed"]


def test_approval_changes_the_rest_and_leaves_the_trial_as_it_was(hands: Hands) -> None:
    batch_id = hands.running(4, trial=1)
    hands.work()
    hands.domain.batches.approve("acme", batch_id, Changes(prompt="On marble", cfg_scale=4))
    claims = hands.start()
    assert {claim.spec.prompt for claim in claims} == {"On marble"}
    assert {claim.spec.cfg_scale for claim in claims} == {4.0}
    assert hands.job(batch_id, 1).prompt == "Put it on a white background"
    assert hands.job(batch_id, 2).prompt == "On marble"


def test_a_change_that_the_model_does_not_take_is_refused(hands: Hands) -> None:
    batch_id = hands.running(4, trial=1)
    hands.work()
    with pytest.raises(InvalidInput, match="steps"):
        hands.domain.batches.approve("acme", batch_id, Changes(steps=100_000))
    assert hands.batch(batch_id).state is BatchState.AWAITING_APPROVAL


def test_a_random_trial_takes_as_many_rows_from_anywhere(hands: Hands) -> None:
    batch_id = hands.running(200, trial=20, trial_sample="random")
    assert hands.work() == 20
    done = [row for row in range(1, 201) if hands.job(batch_id, row).state is State.SUCCEEDED]
    assert done != list(range(1, 21))
    assert hands.batch(batch_id).state is BatchState.AWAITING_APPROVAL


def test_a_trial_of_everything_needs_no_approval(hands: Hands) -> None:
    batch_id = hands.running(2, trial=5)
    assert hands.work() == 2
    assert hands.batch(batch_id).state is BatchState.COMPLETED


def test_canceling_after_the_trial_stops_spending(hands: Hands) -> None:
    batch_id = hands.running(10, trial=3)
    hands.work()
    hands.domain.batches.cancel("acme", batch_id)
    assert hands.start() == []
    assert hands.batch(batch_id).counts.canceled == 7


def test_a_paused_batch_starts_no_job_and_running_jobs_continue(hands: Hands) -> None:
    batch_id = hands.running(5)
    (running,) = hands.start(limit=1)
    assert hands.domain.batches.pause("acme", batch_id).state is BatchState.PAUSED
    assert hands.start() == []
    assert hands.end(running)
    assert hands.domain.batches.resume("acme", batch_id).state is BatchState.RUNNING
    assert hands.work() == 4
    assert hands.events() == ["batch.paused", "batch.completed"]


def test_rows_that_are_read_while_a_batch_is_paused_wait_with_it(hands: Hands) -> None:
    batch_id = hands.upload(hands.csv(5))
    hands.domain.batches.pause("acme", batch_id)
    assert hands.read(batch_id).state is BatchState.PAUSED
    assert hands.start() == []
    hands.domain.batches.resume("acme", batch_id)
    assert hands.work() == 5


def test_another_batch_of_the_tenant_goes_on_while_one_is_paused(hands: Hands) -> None:
    held, other = hands.running(3), hands.running(3)
    hands.domain.batches.pause("acme", held)
    assert hands.work() == 3
    assert hands.batch(other).state is BatchState.COMPLETED


def test_cancel_takes_effect_before_the_records_follow(hands: Hands, domain: Domain) -> None:
    batch_id = hands.running(30)
    running = hands.start(limit=5)
    batch = domain.batches.cancel("acme", batch_id)
    assert (batch.state, batch.counts.canceled, batch.counts.queued) == (BatchState.CANCELED, 30, 0)
    assert hands.job(batch_id, 20).state is State.CANCELED
    assert hands.job(batch_id, 1).state is State.CANCELED
    assert hands.start() == []
    assert len(domain.job_reader.page("acme", batch_id=batch_id, state=State.CANCELED).data) == 30
    assert domain.job_reader.page("acme", batch_id=batch_id, state=State.QUEUED).data == []
    held = [Dispatch(claim.job_id, claim.attempt) for claim in running]
    assert set(domain.planner.renew("hands", slots=10, worker_info="{}", held=held)) == set(held)
    assert not hands.end(running[0])
    hands.do(TaskKind.SWEEP, batch_id)
    stored = [domain.redis.hget(domain.keys.job(batch_job_id(batch_id, row)), "state") for row in range(1, 31)]
    assert set(stored) == {"canceled"}
    assert hands.batch(batch_id).counts.canceled == 30
    assert hands.events() == ["batch.canceled"]


def test_a_sweep_goes_on_where_another_was_killed(hands: Hands, domain: Domain) -> None:
    batch_id = hands.running(30)
    domain.batches.cancel("acme", batch_id)
    with domain.background_tasks.hold(TaskKind.SWEEP, batch_id) as held:
        assert held is not None
        assert domain.batches.sweep(batch_id, held.number, limit=7) == 0
    domain.redis.hdel(domain.keys.batch(batch_id), "u:sweep")
    hands.do(TaskKind.SWEEP, batch_id)
    stored = [domain.redis.hget(domain.keys.job(batch_job_id(batch_id, row)), "state") for row in range(1, 31)]
    assert set(stored) == {"canceled"}


def test_retry_queues_the_failed_jobs_and_the_second_end_sends_an_event(hands: Hands, domain: Domain) -> None:
    batch_id = hands.running(6)
    for number, claim in enumerate(hands.start()):
        hands.end(claim, State.FAILED if number % 2 else State.SUCCEEDED)
    assert hands.batch(batch_id).state is BatchState.COMPLETED
    again = domain.batches.retry("acme", batch_id, [State.FAILED])
    assert (again.state, again.retrying) == (BatchState.RUNNING, True)
    hands.do(TaskKind.SWEEP, batch_id)
    assert hands.batch(batch_id).counts.queued == 3
    assert hands.work() == 3
    batch = hands.batch(batch_id)
    assert (batch.state, batch.counts.succeeded, batch.counts.failed) == (BatchState.COMPLETED, 6, 0)
    assert hands.events() == ["batch.completed", "batch.completed"]


def test_a_job_that_fails_during_a_retry_is_not_tried_for_ever(hands: Hands, domain: Domain) -> None:
    batch_id = hands.running(4)
    hands.work(State.FAILED)
    domain.batches.retry("acme", batch_id, [State.FAILED])
    with domain.background_tasks.hold(TaskKind.SWEEP, batch_id) as held:
        assert held is not None
        domain.batches.sweep(batch_id, held.number, limit=2)
        hands.work(State.FAILED)
        while domain.batches.sweep(batch_id, held.number, limit=2) == 0:
            pass
    hands.work(State.FAILED)
    attempts = [len(hands.job(batch_id, row).attempts) for row in range(1, 5)]
    assert attempts == [2, 2, 2, 2]
    assert hands.batch(batch_id).state is BatchState.COMPLETED


def test_a_canceled_batch_can_be_tried_again_once_its_jobs_have_followed(hands: Hands, domain: Domain) -> None:
    batch_id = hands.running(4)
    domain.batches.cancel("acme", batch_id)
    with pytest.raises(Conflict, match="busy"):
        domain.batches.retry("acme", batch_id, [State.CANCELED])
    hands.do(TaskKind.SWEEP, batch_id)
    domain.batches.retry("acme", batch_id, [State.CANCELED])
    hands.do(TaskKind.SWEEP, batch_id)
    assert hands.work() == 4
    assert hands.batch(batch_id).state is BatchState.COMPLETED


def test_one_job_tried_again_opens_its_batch_again(hands: Hands, domain: Domain) -> None:
    batch_id = hands.running(2)
    hands.work(State.FAILED)
    domain.planner.retry(batch_job_id(batch_id, 1))
    assert hands.batch(batch_id).state is BatchState.RUNNING
    assert hands.work() == 1
    assert hands.batch(batch_id).counts.succeeded == 1


def test_a_budget_stops_the_batch_before_it_is_exceeded(hands: Hands, domain: Domain) -> None:
    batch_id = hands.running(10, budget_usd=0.0125)
    assert hands.work(cost_micro_usd=3000) == 4
    batch = hands.batch(batch_id)
    assert (batch.state, batch.reason) == (BatchState.PAUSED, "budget")
    assert batch.cost_usd == pytest.approx(0.012)
    assert hands.events() == ["batch.paused"]
    with pytest.raises(Conflict, match="budget"):
        domain.batches.resume("acme", batch_id)
    domain.batches.resume("acme", batch_id, budget_usd=1)
    assert hands.work(cost_micro_usd=3000) == 6
    assert hands.batch(batch_id).state is BatchState.COMPLETED


def test_running_calls_count_against_the_budget(hands: Hands) -> None:
    batch_id = hands.running(10, budget_usd=0.009)
    assert len(hands.start()) == 3
    assert hands.batch(batch_id).reason == "budget"


def test_an_edit_that_cost_nothing_gives_its_part_of_the_budget_back(hands: Hands) -> None:
    batch_id = hands.running(3, budget_usd=0.003)
    (claim,) = hands.start()
    hands.end(claim, State.FAILED)
    hands.domain.batches.resume("acme", batch_id)
    assert len(hands.start()) == 1


def test_a_call_of_unknown_outcome_counts_as_spent(hands: Hands, domain: Domain) -> None:
    batch_id = hands.running(3, budget_usd=0.005)
    (claim,) = hands.start(limit=1)
    hands.end(claim, State.FAILED, cost_micro_usd=3000)
    assert hands.start() == []
    assert hands.batch(batch_id).reason == "budget"
    with pytest.raises(Conflict, match="budget"):
        domain.batches.resume("acme", batch_id)


def test_acts_that_the_state_does_not_allow_are_refused(hands: Hands, domain: Domain) -> None:
    batch_id = hands.running(1)
    with pytest.raises(Conflict):
        domain.batches.resume("acme", batch_id)
    with pytest.raises(Conflict):
        domain.batches.approve("acme", batch_id)
    hands.work()
    for act in (domain.batches.pause, domain.batches.cancel):
        with pytest.raises(Conflict, match="completed"):
            act("acme", batch_id)
    with pytest.raises(NotFound):
        domain.batches.cancel("globex", batch_id)


def test_batches_are_listed_newest_first_a_page_at_a_time(hands: Hands, domain: Domain) -> None:
    made = [hands.upload(hands.csv(1)) for _ in range(5)]
    page = domain.batches.page("acme", limit=3)
    rest = domain.batches.page("acme", limit=3, cursor=page.next_cursor)
    assert [one.id for one in (*page.data, *rest.data)] == made[::-1]
    assert rest.next_cursor is None


def test_counts_add_up_after_every_kind_of_end(hands: Hands, domain: Domain) -> None:
    batch_id = hands.running(hands.csv(40) + b"SKU-1,s3://retouch/x.png\n")
    claims = hands.start(limit=20)
    for number, claim in enumerate(claims):
        hands.end(claim, (State.SUCCEEDED, State.FAILED, State.FILTERED)[number % 3])
        assert adds_up(hands.batch(batch_id))
    domain.planner.cancel(batch_job_id(batch_id, 40))
    assert adds_up(hands.batch(batch_id))
    domain.batches.pause("acme", batch_id)
    domain.batches.retry("acme", batch_id, [State.FAILED, State.FILTERED])
    hands.do(TaskKind.SWEEP, batch_id)
    domain.batches.resume("acme", batch_id)
    hands.work()
    batch = hands.batch(batch_id)
    assert adds_up(batch)
    assert (batch.counts.succeeded, batch.counts.canceled, batch.counts.total) == (39, 1, 41)
    assert batch.state is BatchState.COMPLETED
