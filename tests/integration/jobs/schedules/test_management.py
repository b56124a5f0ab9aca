"""Managing schedules: pause, change, delete, list, and refusals."""

from typing import Any

import pytest

from jobs.batches.models import BatchState
from jobs.foundation.errors import Conflict, InvalidInput, NotFound
from jobs.schedules.models import ScheduleChange, ScheduleState
from tests.support.schedules import MIDNIGHT, Timetable, hours


def test_a_paused_schedule_is_not_due_and_continues_with_its_next_tick(timetable: Timetable) -> None:
    schedule = timetable.make()
    paused = timetable.domain.schedules.pause("acme", schedule)
    assert (paused.state, paused.next_run_at) == (ScheduleState.PAUSED, None)
    with pytest.raises(Conflict):
        timetable.domain.schedules.pause("acme", schedule)
    timetable.set(MIDNIGHT + hours(3.5))
    assert timetable.fire() == 0
    resumed = timetable.domain.schedules.resume("acme", schedule)
    assert (resumed.state, resumed.next_run_at) == (ScheduleState.ACTIVE, MIDNIGHT + hours(4))
    assert timetable.fire() == 0
    assert timetable.states(schedule) == []


def test_a_change_applies_from_the_next_run_and_keeps_the_other_fields(timetable: Timetable) -> None:
    schedule = timetable.make(budget_usd=1)
    changed = timetable.domain.schedule_submission.change(
        "acme", schedule, ScheduleChange(cron="30 2 * * *", timezone="Europe/Berlin", budget_usd=None)
    )
    assert changed.next_run_at == MIDNIGHT + hours(1.5)
    assert (changed.budget_usd, changed.items_count, changed.name) == (None, 1, "nightly")
    with pytest.raises(InvalidInput) as refused:
        timetable.domain.schedule_submission.change("acme", schedule, ScheduleChange(cron="61 * * * *"))
    assert "minute" in str(refused.value)
    with pytest.raises(InvalidInput):
        timetable.domain.schedule_submission.change("acme", schedule, ScheduleChange(name=None))


def test_a_change_that_races_with_a_tick_does_not_repeat_the_tick(timetable: Timetable) -> None:
    schedule = timetable.make()
    timetable.set(MIDNIGHT + hours(1))
    template, record = timetable.domain.schedules.read("acme", schedule)
    timetable.fire()
    assert timetable.domain.schedules.write(
        schedule, "acme", template, revision=record["revision"], state=ScheduleState.ACTIVE,
        next_tick=MIDNIGHT + hours(1),
    )  # fmt: skip
    timetable.fire()
    assert timetable.states(schedule) == ["due"]


def test_a_deleted_schedule_leaves_only_its_batches(timetable: Timetable) -> None:
    schedule = timetable.make(overlap="queue")
    for hour in (1, 2):
        timetable.set(MIDNIGHT + hours(hour))
        timetable.fire()
        timetable.begin()
    (batch,) = timetable.domain.batches.page("acme").data
    timetable.domain.schedule_submission.delete("acme", schedule)
    timetable.finish()
    assert timetable.batch_harness.batch(batch.id).state is BatchState.COMPLETED
    left: Any = timetable.domain.redis.keys(f"{timetable.domain.keys.prefix}*{schedule.removeprefix('sch_')}*")
    assert left == []
    with pytest.raises(NotFound):
        timetable.schedule(schedule)


def test_another_tenants_schedule_is_not_found(timetable: Timetable) -> None:
    schedule = timetable.make()
    for act in (
        lambda: timetable.domain.schedules.get("globex", schedule),
        lambda: timetable.domain.schedules.pause("globex", schedule),
        lambda: timetable.domain.schedules.run_now("globex", schedule),
        lambda: timetable.domain.runs.page("globex", schedule),
        lambda: timetable.domain.schedule_submission.delete("globex", schedule),
    ):
        with pytest.raises(NotFound):
            act()


def test_lists_are_paged(timetable: Timetable) -> None:
    schedule_ids = [timetable.make() for _ in range(3)]
    first = timetable.domain.schedules.page("acme", limit=2)
    rest = timetable.domain.schedules.page("acme", limit=2, cursor=first.next_cursor)
    assert [schedule.id for schedule in (*first.data, *rest.data)] == schedule_ids[::-1]
    assert rest.next_cursor is None
    timetable.set(MIDNIGHT + hours(5))
    timetable.fire()
    page = timetable.domain.runs.page("acme", schedule_ids[0], limit=3)
    more = timetable.domain.runs.page("acme", schedule_ids[0], limit=3, cursor=page.next_cursor)
    assert [run.scheduled_at.hour for run in (*page.data, *more.data)] == [5, 4, 3, 2, 1]
    with pytest.raises(InvalidInput):
        timetable.domain.runs.page("acme", schedule_ids[0], cursor="nonsense")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"cron": "61 * * * *"}, "cron"),
        ({"timezone": "Mars/Base"}, "timezone"),
        ({"defaults": {"prompt": "x" * 600}}, "defaults.prompt"),
        ({"manifest": "s3://elsewhere/list.csv"}, "manifest"),
        ({"manifest": "ftp://example.com/list.csv"}, "manifest"),
        ({"not_before": "2027-01-01T00:00:00Z"}, "not_before"),
        ({"overlap": "maybe"}, "overlap"),
        ({"webhook_url": "https://user@example.com/"}, "webhook_url"),
    ],
)
def test_a_bad_request_names_its_field(timetable: Timetable, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        timetable.make(**fields)
    assert [error.field for error in refused.value.errors] == [field]
