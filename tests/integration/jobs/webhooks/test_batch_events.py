"""The events of batches: of the batch, of its jobs if requested, and digests of many jobs."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.events.outbox import Event
from jobs.foundation.ids import batch_job_id, new_batch_id
from jobs.foundation.settings import Settings
from jobs.foundation.values import moment
from jobs.records.job_codec import to_json
from jobs.records.job_models import JobSpec
from jobs.webhooks.delivery_models import DeliveryState
from jobs.webhooks.delivery_reader import DeliveryFilter
from jobs.webhooks.endpoint_models import EndpointChange, EndpointFields
from jobs.webhooks.routing import batch_fields
from jobs.wiring import Domain
from tests.support.batches import BatchHarness, generous
from tests.support.clock import Clock
from tests.support.receiver import Receiver
from tests.support.webhook_worker import WebhookRunner, webhook_runner

FILTER = DeliveryFilter()


@pytest.fixture
def batch_harness(make_settings: Callable[..., Settings], tmp_path: Path) -> Iterator[BatchHarness]:
    """Runs batches against a provider without rate limits."""
    with generous(make_settings, tmp_path) as domain:
        yield BatchHarness(domain)


def store_batch(domain: Domain, **preferences: Any) -> str:
    """Store a batch's record with webhook preferences. Returns the batch's id."""
    batch_id = new_batch_id()
    fields: dict[Any, Any] = {
        "tenant": "acme",
        "defaults": json.dumps({"prompt": "shared"}),
        **batch_fields(preferences.get("url"), preferences.get("events"), preferences.get("digest_s")),
    }
    domain.redis.hset(domain.keys.batch(batch_id), mapping=fields)
    return batch_id


def job_event(domain: Domain, batch_id: str, row: int, **spec: Any) -> str:
    """Put the event of a batch's job into the outbox, as the scripts do. Returns the job's id."""
    job_id = batch_job_id(batch_id, row)
    wanted = JobSpec.model_validate({"model": "step-image-edit-2", "image": "s3://b/k", "seed": 1, **spec})
    record: dict[Any, Any] = {"lane": "l", "state": "succeeded", "spec": to_json(wanted)}
    key, data = domain.keys.job(job_id), json.dumps(record)
    domain.redis.hset(key, mapping=record)
    fields: dict[Any, Any] = {"type": "job.succeeded", "tenant": "acme", "subject": key, "at": 1, "data": data}
    domain.redis.xadd(domain.keys.outbox, fields)
    return job_id


def test_a_batch_sends_only_batch_events_by_default(
    domain: Domain, receiver: Receiver, webhooks: WebhookRunner
) -> None:
    batch_id = store_batch(domain, url=receiver.url)
    domain.bodies.register("batch", lambda event: {"id": event.subject})
    domain.endpoints.create("acme", EndpointFields(url=f"{receiver.url}/all"))
    job_event(domain, batch_id, 1)
    put_batch_event(domain, batch_id)
    webhooks.deliver_all()
    events = sorted((got.path, json.loads(got.body)["type"]) for got in receiver.requests)
    assert events == [("/", "batch.completed"), ("/all", "batch.completed")]


def put_batch_event(domain: Domain, batch_id: str) -> None:
    fields: dict[Any, Any] = {
        "type": "batch.completed",
        "tenant": "acme",
        "subject": domain.keys.batch(batch_id),
        "at": 1,
        "data": "{}",
    }
    domain.redis.xadd(domain.keys.outbox, fields)


def test_a_batch_with_job_filters_sends_job_events_to_its_url_and_to_endpoints(
    domain: Domain, receiver: Receiver, webhooks: WebhookRunner
) -> None:
    batch_id = store_batch(domain, url=f"{receiver.url}/batch", events=["batch.*", "job.succeeded"])
    domain.endpoints.create("acme", EndpointFields(url=f"{receiver.url}/all", events=["job.*"]))
    job_id = job_event(domain, batch_id, 1)
    webhooks.deliver_all()
    assert sorted(got.path for got in receiver.requests) == ["/all", "/batch"]
    data = json.loads(receiver.requests[0].body)["data"]
    assert (data["id"], data["prompt"], data["batch_id"]) == (job_id, "shared", batch_id)


def test_the_event_of_a_row_with_its_own_url_goes_only_there(
    domain: Domain, receiver: Receiver, webhooks: WebhookRunner
) -> None:
    batch_id = store_batch(domain, url=f"{receiver.url}/batch")
    domain.endpoints.create("acme", EndpointFields(url=f"{receiver.url}/all"))
    job_event(domain, batch_id, 1, webhook_url=f"{receiver.url}/row")
    webhooks.deliver_all()
    assert [got.path for got in receiver.requests] == ["/row"]


def test_a_digest_has_at_most_100_jobs_and_respects_its_interval(
    domain: Domain, receiver: Receiver, webhooks: WebhookRunner, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain.deliveries._scripts, "_clock_ms", clock)
    batch_id = store_batch(domain, url=receiver.url, events=["job.*"], digest_s=10)
    jobs = [job_event(domain, batch_id, row) for row in range(1, 151)]
    assert webhooks.deliver_all() == []
    clock.advance(9.9)
    assert webhooks.deliver_all() == []
    clock.advance(0.1)
    domain.deliveries.register("w", 8)
    assert webhooks.deliver_all() == ["the receiver answered 200"]
    assert webhooks.deliver_all() == []
    clock.advance(9.9)
    assert webhooks.deliver_all() == []
    clock.advance(0.1)
    domain.deliveries.register("w", 8)
    assert webhooks.deliver_all() == ["the receiver answered 200"]
    secret = domain.tenants.webhook_secret("acme")
    first, second = (got.verified(secret) for got in receiver.requests)
    assert (first["type"], first["data"]["batch_id"]) == ("job.digest", batch_id)
    assert [len(event["data"]["events"]) for event in (first, second)] == [100, 50]
    inside = [event for digest in (first, second) for event in digest["data"]["events"]]
    assert [event["data"]["id"] for event in inside] == jobs
    assert len({event["id"] for event in inside}) == 150
    assert inside[0]["type"] == "job.succeeded"
    assert inside[0]["data"]["prompt"] == "shared"
    clock.advance(60)
    assert webhooks.deliver_all() == []


def test_a_batch_with_a_digest_sends_its_jobs_together_and_its_end_separately(
    batch_harness: BatchHarness, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = batch_harness.domain
    monkeypatch.setattr(domain.deliveries._scripts, "_clock_ms", clock)
    batch_id = batch_harness.running(
        120, webhook_url=receiver.url, webhook_events=["job.*", "batch.completed"], webhook_digest_s=5
    )
    assert batch_harness.work() == 120
    with webhook_runner(domain) as webhooks:
        for _ in range(4):
            webhooks.deliver_all()
            clock.advance(5)
            domain.deliveries.register("w", 8)
    secret = domain.tenants.webhook_secret("acme")
    events = [got.verified(secret) for got in receiver.requests]
    assert [event["type"] for event in events] == ["batch.completed", "job.digest", "job.digest"]
    assert events[0]["data"]["counts"]["succeeded"] == 120
    digests = [event["data"]["events"] for event in events[1:]]
    assert [len(inside) for inside in digests] == [100, 20]
    jobs = [event["data"] for inside in digests for event in inside]
    assert {job["id"] for job in jobs} == {batch_job_id(batch_id, row) for row in range(1, 121)}
    assert {job["state"] for job in jobs} == {"succeeded"}


def test_a_digest_that_two_outbox_readers_make_is_sent_once(
    domain: Domain, receiver: Receiver, webhooks: WebhookRunner
) -> None:
    batch_id = store_batch(domain, url=receiver.url, events=["job.*"], digest_s=1)
    job_event(domain, batch_id, 1)
    webhooks.deliver_all()
    domain.redis.zadd(domain.keys.deliveries("digests"), dict.fromkeys(due(domain), 1))
    (digest,) = domain.digests.due()
    body = domain.bodies.render_digest(digest)
    assert domain.digests.send(digest, body)
    assert not domain.digests.send(digest, body)
    webhooks.deliver_all()
    assert len(receiver.requests) == 1


def test_a_digest_of_a_disabled_endpoint_is_exhausted_and_can_be_recovered(
    domain: Domain, receiver: Receiver, webhooks: WebhookRunner, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain.deliveries._scripts, "_clock_ms", clock)
    endpoint = domain.endpoints.create("acme", EndpointFields(url=receiver.url, events=["job.*"]))
    batch_id = store_batch(domain, events=["job.*"], digest_s=10)
    jobs = [job_event(domain, batch_id, row) for row in (1, 2)]
    webhooks.deliver_all()
    domain.endpoints.change("acme", endpoint.id, EndpointChange(enabled=False))
    clock.advance(10)
    domain.deliveries.register("w", 8)
    assert webhooks.deliver_all() == []
    (delivery,) = domain.delivery_log.page("acme", FILTER).data
    assert (delivery.state, delivery.reason) == ("exhausted", "its endpoint is disabled: by its owner")
    domain.endpoints.change("acme", endpoint.id, EndpointChange(enabled=True))
    since = moment(0)
    assert domain.endpoints.recover("acme", endpoint.id, since, [DeliveryState.EXHAUSTED]) == 1
    assert webhooks.deliver_all() == ["the receiver answered 200"]
    (got,) = receiver.requests
    assert [event["data"]["id"] for event in json.loads(got.body)["data"]["events"]] == jobs


def test_a_digest_that_is_filled_again_does_not_expire_before_it_is_sent(
    domain: Domain, receiver: Receiver, webhooks: WebhookRunner, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain.deliveries._scripts, "_clock_ms", clock)
    batch_id = store_batch(domain, url=receiver.url, events=["job.*"], digest_s=10)
    job_event(domain, batch_id, 1)
    webhooks.deliver_all()
    (digest,) = due(domain)
    clock.advance(10)
    domain.deliveries.register("w", 8)
    webhooks.deliver_all()
    assert int(str(domain.redis.pttl(digest))) > 0
    job_event(domain, batch_id, 2)
    webhooks.deliver_all()
    assert domain.redis.pttl(digest) == -1


def test_a_lost_digest_record_blocks_no_other_digest_and_loses_no_event(
    domain: Domain, receiver: Receiver, webhooks: WebhookRunner, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain.deliveries._scripts, "_clock_ms", clock)
    lost, whole = (store_batch(domain, url=receiver.url, events=["job.*"], digest_s=10) for _ in range(2))
    jobs = [job_event(domain, lost, 1)]
    webhooks.deliver_all()
    domain.redis.delete(*due(domain))
    job_event(domain, whole, 1)
    webhooks.deliver_all()
    clock.advance(10)
    domain.deliveries.register("w", 8)
    assert webhooks.deliver_all() == ["the receiver answered 200"]
    assert json.loads(receiver.requests[0].body)["data"]["batch_id"] == whole
    assert due(domain) == []
    jobs.append(job_event(domain, lost, 2))
    webhooks.deliver_all()
    clock.advance(10)
    domain.deliveries.register("w", 8)
    assert webhooks.deliver_all() == ["the receiver answered 200"]
    assert [event["data"]["id"] for event in json.loads(receiver.requests[1].body)["data"]["events"]] == jobs


def due(domain: Domain) -> list[str]:
    return [str(key) for key in domain.redis.zrange(domain.keys.deliveries("digests"), 0, -1)]


def test_a_parked_model_is_sent_to_every_tenant_that_listens(
    domain: Domain, receiver: Receiver, webhooks: WebhookRunner
) -> None:
    domain.endpoints.create("acme", EndpointFields(url=f"{receiver.url}/acme", events=["model.*"]))
    domain.endpoints.create("globex", EndpointFields(url=f"{receiver.url}/globex", events=["*"]))
    domain.endpoints.create("globex", EndpointFields(url=f"{receiver.url}/jobs", events=["job.*"]))
    fields: dict[Any, Any] = {
        "type": "model.parked",
        "tenant": "",
        "subject": domain.keys.model("step-image-edit-2"),
        "at": 1,
        "data": json.dumps({"code": "account", "reason": "402"}),
    }
    domain.redis.xadd(domain.keys.outbox, fields)
    webhooks.deliver_all()
    assert sorted(got.path for got in receiver.requests) == ["/acme", "/globex"]
    data = json.loads(receiver.requests[0].body)["data"]
    assert (data["name"], data["code"], data["reason"]) == ("step-image-edit-2", "account", "402")
    assert data["limits"]["concurrency"] > 0
    for tenant in ("acme", "globex"):
        assert len(domain.delivery_log.page(tenant, FILTER).data) == 1


def test_an_event_that_cannot_be_rendered_is_sent_with_its_id_only(
    domain: Domain, receiver: Receiver, webhooks: WebhookRunner
) -> None:
    def fail(_event: Event) -> Any:
        raise ValueError("no")

    domain.bodies.register("batch", fail)
    batch_id = store_batch(domain, url=receiver.url)
    put_batch_event(domain, batch_id)
    webhooks.deliver_all()
    assert json.loads(receiver.requests[0].body)["data"] == {"id": batch_id}
