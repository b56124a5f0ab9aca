"""A worker that no longer consumes restarts its consumer, or ends so that another can replace it."""

from collections.abc import Callable

import pytest

from jobs.foundation.settings import Settings
from tests.support.fleet import Fleet
from tests.support.photographs import photograph
from tests.support.waiting import eventually
from workers.process.drain import EX_TEMPFAIL


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet], make_settings: Callable[..., Settings]) -> Fleet:
    """With short leases, because they determine how soon a worker reports a stall."""
    return make_fleet(settings=make_settings(lease_s=4))


def test_a_worker_that_stopped_consuming_resumes_its_queues(fleet: Fleet) -> None:
    worker = fleet.worker(concurrency=4)
    image = fleet.put_picture(photograph("rocket.jpg").read_bytes(), "in/rocket.jpg")
    fleet.ended(fleet.submit(image, "before the stall"))
    control = fleet.domain.celery.control
    replies = control.cancel_consumer("edits", destination=[worker.name], reply=True, timeout=60, limit=1)
    assert replies
    assert "ok" in replies[0][worker.name], replies
    jobs = [fleet.submit(image, f"while the worker is stalled {n}") for n in range(6)]
    for job_id in jobs:
        job = fleet.ended(job_id)
        assert [attempt.outcome for attempt in job.attempts] == ["succeeded"]
    assert worker.process.poll() is None
    assert "heartbeat.stalled" in worker.log.read_text()


def test_a_worker_that_cannot_resume_its_queues_exits_with_ex_tempfail(fleet: Fleet) -> None:
    worker = fleet.worker(concurrency=4)
    image = fleet.put_picture(photograph("rocket.jpg").read_bytes(), "in/rocket.jpg")
    fleet.ended(fleet.submit(image, "before the limit"))
    # From now on the worker reserves messages and starts one an hour at most.
    control = fleet.domain.celery.control
    replies = control.rate_limit("edit", "1/h", destination=[worker.name], reply=True, timeout=60, limit=1)
    assert replies
    assert "ok" in replies[0][worker.name], replies
    jobs = [fleet.submit(image, f"reserved and never started {n}") for n in range(12)]
    eventually(lambda: worker.process.poll() is not None, what="the worker ends")
    assert worker.process.returncode == EX_TEMPFAIL
    assert all(info.name != worker.name for info in fleet.domain.status.workers())
    fleet.worker()
    for job_id in jobs:
        assert [attempt.outcome for attempt in fleet.ended(job_id).attempts] == ["succeeded"]


def test_a_busy_worker_is_not_stalled(fleet: Fleet) -> None:
    worker = fleet.worker(concurrency=2)
    image = fleet.put_picture(photograph("rocket.jpg").read_bytes(), "in/rocket.jpg")
    busy = [fleet.submit(image, f"[sim:latency=9000] two leases long {n}") for n in range(2)]
    eventually(lambda: fleet.calls(prompt="two leases long")["in_flight"] == 2, what="both threads are busy")
    # Messages that the planner did not publish: they wait, because both threads are busy.
    app = fleet.domain.celery
    for n in range(3):
        app.send_task("edit", args=[f"job_none_{n}", 1], task_id=f"job_none_{n}", queue="edits")
    for job_id in busy:
        fleet.ended(job_id)
    assert worker.process.poll() is None
    assert "heartbeat.stalled" not in worker.log.read_text()
