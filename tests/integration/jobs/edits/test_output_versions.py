"""Superseding batches: waiting jobs are canceled, earlier outputs are kept, and a rollback restores them."""

import hashlib
from typing import Any

import pytest

from jobs.batches.models import Rollback
from jobs.edits.output_versions import aside_key, copy_aside
from jobs.foundation.errors import Conflict, NotFound
from jobs.foundation.job_states import State
from jobs.queueing.background_tasks import TaskKind
from jobs.records.job_models import Job
from tests.support.fleet import Fleet
from tests.support.local_editor import Studio, picture, unique


@pytest.fixture
def studio(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Studio:
    monkeypatch.setenv("STEP_API_KEY", "sim-key")
    return Studio(fleet)


class Shop:
    """A shop whose pictures lie under keys that do not change."""

    def __init__(self, studio: Studio, names: list[str]) -> None:
        self.studio = studio
        self.folder = f"shop/{unique('of').replace(' ', '-')}"
        self.items = [
            {"custom_id": name, "image": studio.put(f"in/{self.folder}/{name}.png", number)}
            for number, name in enumerate(names)
        ]

    def edit(self, prompt: str, **options: Any) -> str:
        defaults = {"output_key": f"{self.folder}/{{custom_id}}.{{ext}}", **options.pop("defaults", {})}
        return self.studio.batch(self.items, unique(prompt), supersede=True, defaults=defaults, **options)

    def sha256(self, name: str) -> str:
        """Of what lies under a name now."""
        bucket = self.studio.domain.bucket
        return hashlib.sha256(bucket.get(bucket.name, f"{self.folder}/{name}.png", max_bytes=1 << 20)).hexdigest()

    def roll_back(self, batch_id: str) -> Rollback:
        self.studio.domain.rollbacks.begin("acme", batch_id)
        self.studio.finish()
        done = self.studio.shown(batch_id).rollback
        assert done is not None
        return done


def output_sha256(job: Job) -> str:
    assert job.output is not None
    return job.output.sha256


def test_a_result_under_a_used_key_is_its_next_version_and_the_earlier_one_stays(studio: Studio) -> None:
    shop = Shop(studio, ["A"])
    jobs = [studio.job(shop.edit(season)) for season in ("spring", "summer", "autumn")]
    assert [job.output.version for job in jobs if job.output] == [1, 2, 3]
    # Each job's record tells where its own result lies now.
    jobs = [studio.domain.job_reader.get("acme", job.id) for job in jobs]
    keys = [job.output.key for job in jobs if job.output]
    assert keys[2] == f"{shop.folder}/A.png"
    assert [job.output.previous for job in jobs if job.output] == [None, keys[0], keys[1]]
    for job in jobs:
        assert hashlib.sha256(studio.bytes_of(job)).hexdigest() == output_sha256(job)
    assert len({output_sha256(job) for job in jobs}) == 3


def test_a_rollback_restores_the_previous_version_and_is_idempotent(studio: Studio) -> None:
    shop = Shop(studio, ["A", "B", "C"])
    spring = shop.edit("spring")
    before = [shop.sha256(name) for name in "ABC"]
    summer = shop.edit("summer")
    after = [shop.sha256(name) for name in "ABC"]
    assert set(before).isdisjoint(after)
    for _ in range(2):
        done = shop.roll_back(summer)
        assert (done.state, done.restored, done.overtaken, done.lost) == ("completed", 3, 0, 0)
        assert [shop.sha256(name) for name in "ABC"] == before
    for batch_id in (spring, summer):
        for row in (1, 2, 3):
            job = studio.job(batch_id, row)
            assert hashlib.sha256(studio.bytes_of(job)).hexdigest() == output_sha256(job)
    # What was rolled back is no version that a later one may write over.
    autumn = studio.job(shop.edit("autumn"))
    assert autumn.output is not None
    assert autumn.output.version == 3
    summers = studio.job(summer)
    assert hashlib.sha256(studio.bytes_of(summers)).hexdigest() == output_sha256(summers)


def test_a_second_rollback_continues_to_the_version_before(studio: Studio) -> None:
    shop = Shop(studio, ["A"])
    batches = [shop.edit(season) for season in ("spring", "summer", "autumn")]
    first = output_sha256(studio.job(batches[0]))
    assert shop.roll_back(batches[1]).overtaken == 1
    assert shop.roll_back(batches[2]).restored == 1
    assert shop.sha256("A") == output_sha256(studio.job(batches[1]))
    assert shop.roll_back(batches[1]).restored == 1
    assert shop.sha256("A") == first
    assert shop.roll_back(batches[0]).unversioned == 1


def test_an_interrupted_rollback_continues(studio: Studio) -> None:
    shop = Shop(studio, ["A"])
    shop.edit("spring")
    before = shop.sha256("A")
    summer = shop.edit("summer")
    # It was lost after the first of its copies.
    bucket, key = studio.domain.bucket, f"{shop.folder}/A.png"
    there = bucket.head(bucket.name, key)
    assert there is not None
    copy_aside(bucket, bucket.name, key, there)
    assert shop.roll_back(summer).restored == 1
    assert shop.sha256("A") == before


def test_only_a_tenants_own_ended_batches_can_be_rolled_back(studio: Studio) -> None:
    shop = Shop(studio, ["A"])
    open_batch = studio.batch_harness.ask(items=shop.items, defaults={"prompt": unique("open")})
    with pytest.raises(Conflict):
        studio.domain.rollbacks.begin("acme", open_batch)
    with pytest.raises(NotFound):
        studio.domain.rollbacks.begin("globex", open_batch)
    studio.finish()


def test_an_object_from_outside_is_kept_as_an_earlier_version(studio: Studio) -> None:
    shop = Shop(studio, ["A"])
    bucket = studio.domain.bucket
    bucket.put(bucket.name, f"{shop.folder}/A.png", picture(99), media_type="image/png")
    batch_id = shop.edit("spring")
    assert shop.roll_back(batch_id).restored == 1
    assert shop.sha256("A") == hashlib.sha256(picture(99)).hexdigest()


def test_a_reused_output_is_a_new_version_unless_it_is_the_same_object(studio: Studio) -> None:
    shop = Shop(studio, ["A"])
    prompt = unique("spring")
    options = {"defaults": {"prompt": prompt, "reuse": True}}
    first = studio.job(shop.edit("", **options))
    shop.edit("summer")
    again = studio.job(shop.edit("", **options))
    assert again.output is not None
    assert (again.output.reused, again.output.version) == (True, 3)
    assert shop.sha256("A") == output_sha256(first)
    same = shop.edit("", **options)
    job = studio.job(same)
    assert job.output is not None
    assert (job.output.reused, job.output.version) == (True, 3)
    assert studio.calls(prompt) == 1
    assert shop.roll_back(same).unversioned == 1


def test_waiting_jobs_of_earlier_batches_with_the_same_name_are_canceled(studio: Studio) -> None:
    items = [{"custom_id": name, "image": studio.put(f"in/way/{name}.png", n)} for n, name in enumerate("ABC")]
    later = [{**items[0], "not_before": "2099-01-01T00:00:00Z"}, items[1]]
    first = studio.batch_harness.ask(items=later, defaults={"prompt": unique("first")})
    studio.run_background_tasks(TaskKind.INGEST)
    second = studio.batch_harness.ask(items=[items[0], items[2]], defaults={"prompt": unique("second")}, supersede=True)
    studio.run_background_tasks(TaskKind.INGEST)
    waited, kept = studio.job(first, 1), studio.job(first, 2)
    assert waited.state is State.CANCELED
    assert waited.error is not None
    assert waited.error.code == "superseded"
    assert kept.state is State.QUEUED
    assert studio.shown(second).superseded == 1
    studio.finish()
    counts = studio.shown(first).counts
    assert (counts.canceled, counts.succeeded, counts.total) == (1, 1, 2)


def test_without_supersede_no_job_of_an_earlier_batch_is_canceled(studio: Studio) -> None:
    items = [{"custom_id": "A", "image": studio.put("in/stay.png", 1), "not_before": "2099-01-01T00:00:00Z"}]
    first = studio.batch_harness.ask(items=items, defaults={"prompt": unique("first")})
    studio.run_background_tasks(TaskKind.INGEST)
    studio.batch_harness.ask(items=items, defaults={"prompt": unique("second")})
    studio.run_background_tasks(TaskKind.INGEST)
    assert studio.job(first).state is State.WAITING


@pytest.mark.parametrize("key", ["a.png", "shop/a.png", "shop/a", "x" * 1000 + ".png", "ü" * 400 + "/a.png"])
def test_the_keys_of_earlier_versions_are_valid_and_distinct(key: str) -> None:
    kept = aside_key(key, 3, "job_01KD3V6E5Y2M8Q4T7W9Z0ABCDE-0000001")
    assert len(kept.encode()) <= 1024
    assert kept.endswith(".png") == key.endswith(".png")
    assert kept != aside_key(key + "x", 3, "job_01KD3V6E5Y2M8Q4T7W9Z0ABCDE-0000001")
