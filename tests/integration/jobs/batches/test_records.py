"""The fields and the size of records: a hundred thousand of them must fit into memory."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.foundation.ids import batch_job_id
from jobs.foundation.settings import Settings
from jobs.records.job_models import Checkpoint
from tests.support.batches import BatchHarness, generous

LINE = "SKU-{n:08d},https://images.example.com/catalogue/2026/winter/product-{n:08d}.jpg"


@pytest.fixture
def batch_harness(make_settings: Callable[..., Settings], tmp_path: Path) -> Iterator[BatchHarness]:
    with generous(make_settings, tmp_path) as domain:
        yield BatchHarness(domain)


def test_an_ended_job_of_a_large_batch_fits_into_1500_bytes(batch_harness: BatchHarness) -> None:
    rows = 3000
    redis, keys = batch_harness.domain.redis, batch_harness.domain.keys
    batch_id = batch_harness.upload(batch_harness.csv(rows, line=LINE))
    indexes = [keys.custom_ids("acme"), keys.index("acme", "queued")]
    batch_harness.read(batch_id)
    for claim in batch_harness.start(limit=20):
        answer = Checkpoint(kind="url", url="https://x/" + "y" * 90, at=datetime.now(UTC), attempt=claim.attempt)
        batch_harness.domain.planner.checkpoint(claim, answer, cost_micro_usd=3000)
        assert batch_harness.end(claim)
    record: Any = redis.memory_usage(keys.job(batch_job_id(batch_id, 7)), samples=0)
    shares = [int(str(redis.memory_usage(key, samples=0))) / rows for key in indexes]
    assert batch_harness.job(batch_id, 7).output is not None
    assert record + sum(shares) <= 1500


def test_a_success_shows_times_that_only_its_log_stores(batch_harness: BatchHarness) -> None:
    batch_id = batch_harness.running(1)
    batch_harness.work()
    job = batch_harness.job(batch_id, 1)
    assert job.started_at is not None
    assert job.finished_at is not None
    assert job.started_at <= job.finished_at
    assert batch_harness.domain.redis.hget(batch_harness.domain.keys.job(job.id), "finished") is None
