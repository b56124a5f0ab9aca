"""A schedule over a prefix edits objects that changed since its last success; the simulator counts the calls."""

from typing import Any

import pytest

from jobs.queueing.background_tasks import LeaseLost, TaskKind
from jobs.schedules.changed_objects import marks_key
from jobs.schedules.models import Run, RunState, ScheduleChange
from jobs.schedules.seen_objects import PARTS
from jobs.schedules.submission import parse_schedule
from tests.support.fleet import Fleet
from tests.support.local_editor import Studio, unique
from tests.support.waiting import eventually


class Night(Studio):
    """A studio with a schedule over a folder of pictures."""

    folder = ""
    schedule_id = ""

    def open(self, prompt: str, **fields: Any) -> None:
        self.folder = f"incoming/{unique('night').replace(' ', '-')}/"
        body = {
            "name": "nightly",
            "cron": "0 3 * * *",
            "manifest": f"s3://{self.domain.bucket.name}/{self.folder}",
            "defaults": {"prompt": prompt},
            **fields,
        }
        self.schedule_id = self.domain.schedule_submission.create(parse_schedule(body), tenant="acme").id

    def fill(self, names: list[str], *, version: int = 0) -> None:
        for name in names:
            self.put(self.folder + name, hash((name, version)))

    def run(self) -> Run:
        """One run, worked off to its end."""
        before = len(self.domain.runs.page("acme", self.schedule_id).data)
        eventually(self._begun, what="a run of its own millisecond")
        self.finish()
        runs = self.domain.runs.page("acme", self.schedule_id).data
        assert len(runs) == before + 1
        return runs[0]

    def _begun(self) -> bool:
        # Two runs that are asked for in one millisecond are one.
        before = len(self.domain.runs.page("acme", self.schedule_id).data)
        self.domain.schedules.run_now("acme", self.schedule_id)
        return len(self.domain.runs.page("acme", self.schedule_id).data) > before


@pytest.fixture
def night(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Night:
    monkeypatch.setenv("STEP_API_KEY", "sim-key")
    return Night(fleet)


NAMES = [f"{number:04d}.png" for number in range(60)]


def test_a_run_takes_changed_objects_and_a_second_run_takes_none(night: Night) -> None:
    prompt = unique("changed")
    night.open(prompt)
    night.fill([*NAMES, "notes.txt"])
    first = night.run()
    assert first.counts is not None
    assert (first.state, first.listed, first.unchanged, first.counts.succeeded) == (RunState.COMPLETED, 60, 0, 60)
    assert night.calls(prompt) == 60
    night.fill(NAMES[3:8], version=1)
    night.fill(["new.png"])
    second = night.run()
    assert second.counts is not None
    assert (second.listed, second.unchanged, second.counts.total) == (61, 55, 6)
    assert night.calls(prompt) == 66
    third = night.run()
    assert (third.state, third.listed, third.unchanged, third.batch_id) == (RunState.UNCHANGED, 61, 61, None)
    assert night.calls(prompt) == 66


def test_a_failed_object_is_taken_again(night: Night) -> None:
    prompt = unique("[sim:fail=400*1] once")
    night.open(prompt)
    night.fill(NAMES[:3])
    first = night.run()
    assert first.counts is not None
    assert (first.counts.failed, first.counts.succeeded) == (3, 0)
    night.fill(NAMES[3:4])
    second = night.run()
    assert second.counts is not None
    assert (second.unchanged, second.counts.succeeded, second.counts.failed) == (0, 3, 1)
    third = night.run()
    assert third.counts is not None
    assert (third.unchanged, third.counts.succeeded) == (3, 1)


def test_a_changed_prompt_makes_every_picture_due(night: Night) -> None:
    prompt, winter = unique("summer"), unique("winter")
    night.open(prompt)
    night.fill(NAMES[:4])
    night.run()
    night.domain.schedule_submission.change(
        "acme", night.schedule_id, ScheduleChange.model_validate({"defaults": {"prompt": winter}})
    )
    assert night.run().unchanged == 0
    assert (night.calls(prompt), night.calls(winter)) == (4, 4)


def test_without_only_changed_all_objects_run_and_reuse_pays_for_changed_ones(night: Night) -> None:
    prompt = unique("all")
    night.open(prompt, only_changed=False)
    night.fill(NAMES[:10])
    night.run()
    night.fill(NAMES[:2], version=1)
    second = night.run()
    assert second.counts is not None
    assert (second.counts.total, second.counts.reused) == (10, 8)
    assert night.calls(prompt) == 12
    assert second.cost_usd == pytest.approx(0.006)


def test_a_worker_lost_during_a_listing_repeats_only_the_listing(night: Night) -> None:
    prompt = unique("lost")
    night.open(prompt)
    night.fill(NAMES[:5])
    night.run()
    night.fill(NAMES[5:9])
    night.domain.schedules.run_now("acme", night.schedule_id)
    template, _ = night.domain.schedules.read("acme", night.schedule_id)
    pages = iter([None])

    def lost_on_the_second_page() -> None:
        if next(pages, "lost"):
            raise LeaseLost("killed")

    with pytest.raises(LeaseLost):
        night.domain.changed_objects.save_changed(
            template,
            schedule_id=night.schedule_id,
            tenant="acme",
            batch_id="bat_01KD3V6E5Y2M8Q4T7W9Z0ABCDE",
            check=lost_on_the_second_page,
        )
    bucket = night.domain.bucket
    assert bucket.head(bucket.name, marks_key("acme", "bat_01KD3V6E5Y2M8Q4T7W9Z0ABCDE")) is None
    night.finish()
    assert night.domain.runs.page("acme", night.schedule_id).data[0].unchanged == 5
    assert night.calls(prompt) == 9


def test_a_run_interrupted_before_recording_its_end_records_it_later(night: Night) -> None:
    prompt = unique("note")
    night.open(prompt)
    night.fill(NAMES[:5])
    night.domain.schedules.run_now("acme", night.schedule_id)
    night.run_background_tasks(TaskKind.RUN)
    night.run_background_tasks(TaskKind.INGEST)
    night.edit()
    # The batch has ended, and the chore of taking note is there for whoever comes.
    members: Any = night.domain.redis.zrange(night.domain.keys.background_tasks, 0, -1)
    assert [member.split(" ")[0] for member in members if member.startswith("run ")] == ["run"]
    night.finish()
    assert night.run().state is RunState.UNCHANGED
    assert night.calls(prompt) == 5


def test_deleting_a_schedule_deletes_its_list_of_seen_objects(night: Night) -> None:
    night.open(unique("gone"))
    night.fill(NAMES[:5])
    night.run()
    keys = [night.domain.keys.seen_objects(night.schedule_id, part) for part in range(PARTS)]
    assert night.domain.redis.exists(*keys) == 5
    night.domain.seen.forget(night.schedule_id)
    assert night.domain.redis.exists(*keys) == 0
