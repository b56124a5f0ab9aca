"""A hundred jobs while the API, workers, Valkey and SeaweedFS are killed at random: at the end everything adds up."""

import secrets

import pytest

from infra.chaos.__main__ import Dose, run


@pytest.mark.timeout(300)
def test_whatever_is_killed_every_job_ends_once_is_told_and_adds_up() -> None:
    seed = secrets.randbelow(1 << 31)
    dose = Dose(
        faults=("kill_api", "kill_worker", "kill_worker", "kill_store", "kill_bucket"),
        seconds=0,
        pause_s=(0.5, 2.0),
        singles=60,
        rows=30,
        waves=1,
    )
    report = run(dose, seed, say=print)
    words = f"seed {seed}\n{report.table()}"
    assert not report.faults, words
    assert report.rows["jobs"] == 120, words
    assert report.rows["worker killed"] == 2, words
    assert report.rows["api killed"] == report.rows["store killed"] == report.rows["bucket killed"] == 1, words
