"""What records hold and weigh: a hundred thousand of them must fit."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.foundation.ids import batch_job_id
from jobs.foundation.settings import Settings
from jobs.records.job_models import Checkpoint
from tests.support.batches import Hands, generous

LINE = "SKU-{n:08d},https://images.example.com/catalogue/2026/winter/product-{n:08d}.jpg"


@pytest.fixture
def hands(make_settings: Callable[..., Settings], tmp_path: Path) -> Iterator[Hands]:
    with generous(make_settings, tmp_path) as domain:
        yield Hands(domain)


def test_an_ended_job_of_a_large_batch_fits_into_1500_bytes(hands: Hands) -> None:
    rows = 3000
    redis, keys = hands.domain.redis, hands.domain.keys
    batch_id = hands.upload(hands.csv(rows, line=LINE))
    indexes = [keys.custom_ids("acme"), keys.index("acme", "queued")]
    hands.read(batch_id)
    for claim in hands.start(limit=20):
        answer = Checkpoint(kind="url", url="https://x/" + "y" * 90, at=datetime.now(UTC), attempt=claim.attempt)
        hands.domain.planner.checkpoint(claim, answer, cost_micro_usd=3000)
        assert hands.end(claim)
    record: Any = redis.memory_usage(keys.job(batch_job_id(batch_id, 7)), samples=0)
    shares = [int(str(redis.memory_usage(key, samples=0))) / rows for key in indexes]
    assert hands.job(batch_id, 7).output is not None
    assert record + sum(shares) <= 1500


def test_a_success_shows_its_moments_though_its_log_alone_keeps_them(hands: Hands) -> None:
    batch_id = hands.running(1)
    hands.work()
    job = hands.job(batch_id, 1)
    assert job.started_at is not None
    assert job.finished_at is not None
    assert job.started_at <= job.finished_at
    assert hands.domain.redis.hget(hands.domain.keys.job(job.id), "finished") is None
