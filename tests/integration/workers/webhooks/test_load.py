"""Many events through a real webhook worker, to a receiver that fails at first and to a receiver that hangs."""

import json
import socket
import threading
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
from tests.support.receiver import Answer, ReceivedRequest, receiving
from tests.support.waiting import eventually

EVENTS, FAILING = 600, 200


class FailsAtFirst:
    """Answers 500 to the first attempts of `FAILING` events, and 204 to everything else.

    No event fails twice, however slow the machine is: the third attempt would come after 5 minutes.
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, request: ReceivedRequest, _number: int) -> Answer:
        with self._lock:
            fails = len(self._seen) < FAILING and request.id not in self._seen
            self._seen.add(request.id)
        return Answer(status=500 if fails else 204, body=b"")


def test_all_events_reach_a_receiver_that_fails_at_first_beside_a_hanging_one(domain: Domain, tmp_path: Path) -> None:
    with receiving() as receiver, socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        receiver.answer = FailsAtFirst()
        good = domain.endpoints.create("acme", EndpointFields(url=receiver.url, events=["job.*"]))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        hanging = domain.endpoints.create("acme", EndpointFields(url=url, events=["job.*"]))
        jobs = put_events(domain)
        worker = Worker(domain, tmp_path / "webhooks.log", queues="webhooks", concurrency=16)
        try:
            receiver.wait_for(lambda got: len(got) >= EVENTS + FAILING)
            eventually(lambda: count(domain, good.id, DeliveryState.SUCCEEDED) == EVENTS, what="all have succeeded")
        finally:
            worker.kill()
            worker.close()
        bodies: dict[str, set[bytes]] = {}
        for request in receiver.requests:
            bodies.setdefault(request.id, set()).add(request.body)
        assert {request.verified(good.secret)["data"]["id"] for request in receiver.requests} == set(jobs)
        assert len(bodies) == EVENTS
        assert all(len(sent) == 1 for sent in bodies.values())
        assert domain.redis.xlen(domain.keys.outbox) == 0
        pending: Any = domain.redis.xpending(domain.keys.outbox, GROUP)
        assert pending["pending"] == 0
        # The attempts at the hanging receiver timed out; all its deliveries still wait.
        waiting = count(domain, hanging.id, DeliveryState.WAITING) + count(domain, hanging.id, DeliveryState.SENDING)
        assert waiting == EVENTS
        listed = domain.delivery_log.page("acme", DeliveryFilter(), endpoint_id=good.id, limit=200).data
        assert all(delivery.attempts[-1].status == 204 for delivery in listed)


def count(domain: Domain, endpoint_id: str, state: DeliveryState) -> int:
    return int(str(domain.redis.zcard(domain.keys.deliveries_in_state(endpoint_id, state))))


def put_events(domain: Domain) -> list[str]:
    """Put events of ended jobs into the outbox, as the scripts do. Returns the jobs' ids."""
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
