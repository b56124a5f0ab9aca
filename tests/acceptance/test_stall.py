"""A worker that no longer consumes notices, and takes up its queues again or makes room for another."""

from collections.abc import Callable

import pytest

from jobs.foundation.settings import Settings
from tests.support.fleet import Fleet
from tests.support.photographs import photograph
from tests.support.waiting import eventually
from workers.process.drain import EX_TEMPFAIL


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet], make_settings: Callable[..., Settings]) -> Fleet:
    """With short leases: they are what a worker's patience is measured by."""
    return make_fleet(settings=make_settings(lease_s=4))


def test_a_worker_that_stopped_consuming_takes_up_its_queues_again(fleet: Fleet) -> None:
    worker = fleet.worker(concurrency=4)
    image = fleet.put_picture(photograph("rocket.jpg").read_bytes(), "in/rocket.jpg")
    fleet.ended(fleet.submit(image, "before the stall"))
    control = fleet.domain.celery.control
    told = control.cancel_consumer("edits", destination=[worker.name], reply=True, timeout=60, limit=1)
    assert told
    assert "ok" in told[0][worker.name], told
    jobs = [fleet.submit(image, f"beside a stalled worker {n}") for n in range(6)]
    for job_id in jobs:
        job = fleet.ended(job_id)
        assert [attempt.outcome for attempt in job.attempts] == ["succeeded"]
    assert worker.process.poll() is None
    assert "heartbeat.stalled" in worker.log.read_text()


def test_a_worker_that_cannot_be_brought_to_consume_ends_with_a_status_that_has_it_started_again(fleet: Fleet) -> None:
    worker = fleet.worker(concurrency=4)
    image = fleet.put_picture(photograph("rocket.jpg").read_bytes(), "in/rocket.jpg")
    fleet.ended(fleet.submit(image, "before the limit"))
    # What it takes now it keeps for itself, and begins none of it in an hour.
    control = fleet.domain.celery.control
    told = control.rate_limit("edit", "1/h", destination=[worker.name], reply=True, timeout=60, limit=1)
    assert told
    assert "ok" in told[0][worker.name], told
    jobs = [fleet.submit(image, f"kept from everybody {n}") for n in range(12)]
    eventually(lambda: worker.process.poll() is not None, what="the worker ends")
    assert worker.process.returncode == EX_TEMPFAIL
    assert all(one.name != worker.name for one in fleet.domain.status.workers())
    fleet.worker()
    for job_id in jobs:
        assert [attempt.outcome for attempt in fleet.ended(job_id).attempts] == ["succeeded"]


def test_a_worker_that_is_merely_busy_is_left_alone(fleet: Fleet) -> None:
    worker = fleet.worker(concurrency=2)
    image = fleet.put_picture(photograph("rocket.jpg").read_bytes(), "in/rocket.jpg")
    busy = [fleet.submit(image, f"[sim:latency=9000] two leases long {n}") for n in range(2)]
    eventually(lambda: fleet.calls(prompt="two leases long")["in_flight"] == 2, what="both threads are busy")
    # Behind the plan's back: messages lie in the queue that this worker has no thread for.
    app = fleet.domain.celery
    for n in range(3):
        app.send_task("edit", args=[f"job_none_{n}", 1], task_id=f"job_none_{n}", queue="edits")
    for job_id in busy:
        fleet.ended(job_id)
    assert worker.process.poll() is None
    assert "heartbeat.stalled" not in worker.log.read_text()
