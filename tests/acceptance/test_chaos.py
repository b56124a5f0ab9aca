"""Kills the API, workers, Valkey and SeaweedFS at random under load, and then audits the data."""

import secrets

import pytest

from infra.chaos.__main__ import ChaosPlan, run


@pytest.mark.timeout(300)
def test_every_job_ends_and_sends_its_event_after_processes_are_killed() -> None:
    seed = secrets.randbelow(1 << 31)
    plan = ChaosPlan(
        faults=("kill_api", "kill_worker", "kill_worker", "kill_store", "kill_bucket"),
        seconds=0,
        pause_s=(0.5, 2.0),
        singles=60,
        rows=30,
        waves=1,
    )
    report = run(plan, seed, say=print)
    message = f"seed {seed}\n{report.table()}"
    assert not report.faults, message
    assert report.rows["jobs"] == 120, message
    assert report.rows["worker killed"] == 2, message
    assert report.rows["api killed"] == report.rows["store killed"] == report.rows["bucket killed"] == 1, message
