"""Two thousand events through a real webhook worker, to a receiver that fails at first, beside one that hangs."""

import json
import socket
from pathlib import Path
from typing import Any

from jobs.events.outbox import GROUP
from jobs.foundation.ids import new_job_id
from jobs.records.job_codec import to_json
from jobs.records.job_models import JobSpec
from jobs.webhooks.delivery_models import DeliveryState
from jobs.webhooks.delivery_reader import DeliveryFilter
from jobs.webhooks.endpoint_models import EndpointFields
from jobs.wiring import Domain
from tests.support.fleet import Worker
from tests.support.receiver import Answer, receiving
from tests.support.waiting import eventually

EVENTS, FAILING = 2000, 600


def test_two_thousand_events_reach_a_receiver_that_fails_its_first_third_beside_one_that_hangs(
    domain: Domain, tmp_path: Path
) -> None:
    with receiving() as receiver, socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        receiver.answer = lambda _got, number: Answer(status=500 if number < FAILING else 204, body=b"")
        good = domain.endpoints.create("acme", EndpointFields(url=receiver.url, events=["job.*"]))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        hanging = domain.endpoints.create("acme", EndpointFields(url=url, events=["job.*"]))
        jobs = put_events(domain)
        worker = Worker(domain, tmp_path / "webhooks.log", queues="webhooks", concurrency=16)
        try:
            receiver.wait_for(lambda got: len(got) >= EVENTS + FAILING, within_s=240)
            eventually(lambda: count(domain, good.id, DeliveryState.SUCCEEDED) == EVENTS, what="all have succeeded")
        finally:
            worker.kill()
            worker.close()
        told: dict[str, str] = {}
        bodies: dict[str, set[bytes]] = {}
        for number, got in enumerate(receiver.got):
            job_id = got.verified(good.secret)["data"]["id"]
            bodies.setdefault(got.id, set()).add(got.body)
            if number >= FAILING:
                told[job_id] = got.id
        assert set(told) == set(jobs)
        assert len(bodies) == EVENTS
        assert all(len(one) == 1 for one in bodies.values())
        assert domain.redis.xlen(domain.keys.outbox) == 0
        pending: Any = domain.redis.xpending(domain.keys.outbox, GROUP)
        assert pending["pending"] == 0
        # The one that hangs was given up at most a few times, and everything still waits for it, visibly.
        waiting = count(domain, hanging.id, DeliveryState.WAITING) + count(domain, hanging.id, DeliveryState.SENDING)
        assert waiting == EVENTS
        tried = domain.delivery_log.page("acme", DeliveryFilter(), endpoint_id=good.id, limit=200).data
        assert all(one.attempts[-1].status == 204 for one in tried)


def count(domain: Domain, endpoint_id: str, state: DeliveryState) -> int:
    return int(str(domain.redis.zcard(domain.keys.told(endpoint_id, state))))


def put_events(domain: Domain) -> list[str]:
    """Events of jobs that have ended, as the scripts put them into the outbox; the jobs' ids."""
    spec = to_json(JobSpec(model="step-image-edit-2", prompt="p", image="s3://b/k", seed=1))
    data = json.dumps({"lane": "l", "state": "succeeded", "spec": spec})
    jobs = [new_job_id() for _ in range(EVENTS)]
    pipe = domain.redis.pipeline(transaction=False)
    for job_id in jobs:
        key = domain.keys.job(job_id)
        fields: dict[Any, Any] = {"type": "job.succeeded", "tenant": "acme", "subject": key, "at": 1, "data": data}
        pipe.xadd(domain.keys.outbox, fields)
    pipe.execute()
    return jobs
