"""From a job's end to its receiver: outbox, fan-out, deliveries, and the effects of an attempt's result."""

import json
from collections.abc import Callable, Iterator
from itertools import count

import pytest
from redis import Redis

from jobs.webhooks.delivery_models import decode_tries
from jobs.webhooks.endpoint_models import EndpointChange, EndpointFields
from jobs.webhooks.retry_policy import Exchange
from jobs.webhooks.routing import Target
from jobs.wiring import Domain
from tests.support.clock import Clock
from tests.support.deliveries import BAD, GOOD, DeliveryHarness
from tests.support.ended_jobs import end_job
from tests.support.receiver import Answer, Receiver
from tests.support.webhook_worker import webhook_runner

_prefixes = count(1)


@pytest.fixture
def harness(redis: Redis, clock: Clock) -> DeliveryHarness:
    return DeliveryHarness(redis, f"d{next(_prefixes)}:", clock)


@pytest.fixture
def deliver_all(domain: Domain) -> Iterator[Callable[[], list[str]]]:
    """Delivers all that is due. Returns the results of the attempts as Celery would show them."""
    with webhook_runner(domain) as webhooks:
        yield webhooks.deliver_all


def test_a_jobs_webhook_url_receives_the_job_as_the_api_shows_it(
    domain: Domain, receiver: Receiver, deliver_all: Callable[[], list[str]]
) -> None:
    job_id = end_job(domain, webhook_url=f"{receiver.url}/hook?shop=1", custom_id="SKU-1")
    assert deliver_all() == ["the receiver answered 200"]
    (got,) = receiver.requests
    event = got.verified(domain.tenants.webhook_secret("acme"))
    assert got.path == "/hook?shop=1"
    assert event["type"] == "job.succeeded"
    shown = domain.job_reader.get("acme", job_id).model_dump(mode="json")
    url = event["data"]["output"].pop("url")
    assert event["data"] == {**shown, "output": {k: v for k, v in shown["output"].items() if k != "url"}}
    assert "X-Amz-Expires=604800" in url
    assert deliver_all() == []


def test_a_job_without_a_webhook_url_sends_nothing(domain: Domain, deliver_all: Callable[[], list[str]]) -> None:
    end_job(domain)
    assert deliver_all() == []
    assert domain.redis.xlen(domain.keys.outbox) == 0


def test_every_attempt_sends_the_same_id_and_the_same_bytes(
    domain: Domain, receiver: Receiver, deliver_all: Callable[[], list[str]]
) -> None:
    end_job(domain, webhook_url=receiver.url)
    receiver.answer = lambda _request, number: Answer(status=500 if number == 0 else 204, body=b"")
    assert [outcome[:5] for outcome in deliver_all()] == ["retry"]
    (delivery,) = domain.redis.zrange(domain.keys.receiver_queue_due(queue_of(domain)), 0, -1)
    domain.deliveries.redeliver(domain.keys.id_of(str(delivery)))
    assert deliver_all() == ["the receiver answered 204"]
    first, second = receiver.requests
    assert (first.id, first.body) == (second.id, second.body)
    second.verified(domain.tenants.webhook_secret("acme"))


def queue_of(domain: Domain, tenant: str = "acme") -> str:
    (line,) = domain.redis.zrange(domain.keys.origin_queues(tenant), 0, -1)
    return domain.keys.id_of(str(line))


def test_an_event_that_is_fanned_out_twice_is_delivered_once(harness: DeliveryHarness) -> None:
    line = harness.endpoint("a")
    event = harness.event()
    assert harness.deliveries.fan_out([(event, "{}", [Target(line)])]) == [1]
    assert harness.deliveries.fan_out([(event, "{}", [Target(line)])]) == [-1]
    assert len(harness.plan()) == 1


def test_an_event_of_a_dead_outbox_reader_is_taken_over(harness: DeliveryHarness) -> None:
    harness.outbox.put("job.failed", tenant="acme", subject="job_x", data="{}", at_ms=harness.clock())
    (lost,) = harness.outbox.read("dead", count=10, block_ms=0)
    assert harness.outbox.read("alive", count=10, block_ms=0) == []
    assert harness.outbox.take_over("alive", count=10, idle_ms=0) == [lost]


def test_a_lost_worker_costs_a_delivery_one_lease_and_no_try(harness: DeliveryHarness) -> None:
    (delivery_id,) = harness.fan_out(harness.endpoint("a"))
    (started,) = harness.plan()
    harness.claim(started)
    assert harness.plan() == []
    harness.clock.advance(30)
    harness.heartbeat()
    ((again, number),) = harness.plan()
    assert (again, number) == (delivery_id, 2)
    attempt = harness.claim((again, number))
    assert attempt.tries == 0
    assert harness.settle(attempt) == "succeeded"


def test_an_attempt_with_an_expired_lease_may_settle_only_a_success(harness: DeliveryHarness) -> None:
    (delivery_id,) = harness.fan_out(harness.endpoint("a"))
    old = harness.claim(harness.plan()[0])
    harness.clock.advance(30)
    harness.heartbeat()
    new = harness.claim(harness.plan()[0])
    assert harness.settle(old, BAD) is None
    assert harness.settle(old, GOOD) is None
    assert harness.state(delivery_id) == "sending"
    harness.clock.advance(30)
    assert harness.plan() == []
    assert harness.state(delivery_id) == "waiting"
    assert harness.settle(new, GOOD) == "succeeded"
    harness.heartbeat()
    assert harness.plan() == []


def test_only_the_first_of_two_claims_gets_the_attempt(harness: DeliveryHarness) -> None:
    harness.fan_out(harness.endpoint("a"))
    (started,) = harness.plan()
    harness.claim(started)
    assert harness.deliveries.claim(*started) is None


def test_failed_attempts_follow_the_schedule_until_the_delivery_is_exhausted(harness: DeliveryHarness) -> None:
    (delivery_id,) = harness.fan_out(harness.endpoint("a"))
    waits = []
    while harness.state(delivery_id) == "waiting":
        harness.heartbeat()
        (started,) = harness.plan()
        harness.settle(harness.claim(started), BAD)
        if harness.state(delivery_id) == "waiting":
            waits.append(harness.due_in_s(delivery_id))
            harness.clock.advance(waits[-1])
    assert waits == [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]
    assert harness.state(delivery_id) == "exhausted"
    assert harness.field(delivery_id, "why") == "10 tries have failed"
    log = [json.loads(line) for line in (harness.field(delivery_id, "log") or "").splitlines()]
    assert [entry["number"] for entry in log] == list(range(1, 11))
    assert {(entry["status"], entry["answer"]) for entry in log} == {(500, "oops")}


def tell_until_it_ends(harness: DeliveryHarness, delivery_id: str, answer: Exchange) -> None:
    while harness.state(delivery_id) == "waiting":
        harness.clock.advance(max(0.0, harness.due_in_s(delivery_id)))
        harness.heartbeat()
        harness.deliver_planned(lambda _: answer)


def test_the_log_keeps_the_whole_unicode_answer_of_every_attempt(harness: DeliveryHarness) -> None:
    (delivery_id,) = harness.fan_out(harness.endpoint("a"))
    answer = "Störung\u2028\x85" + "ж" * 505
    tell_until_it_ends(harness, delivery_id, Exchange(took_ms=5, status=500, answer=answer))
    tries = decode_tries(harness.field(delivery_id, "log") or "")
    assert [entry.number for entry in tries] == list(range(1, 11))
    assert {entry.answer for entry in tries} == {answer}


def test_a_log_that_is_too_long_drops_old_answers_before_whole_attempts(harness: DeliveryHarness) -> None:
    line = harness.endpoint("a")
    # The address of a job is never disabled.
    harness.redis.hdel(harness.keys.receiver_queue(line), "endpoint")
    (delivery_id,) = harness.fan_out(line)
    # The log needs six bytes for each of these, which is the maximum.
    answer = "\x00" * 1024
    starts = []
    for _ in range(3):
        starts.append(harness.now())
        tell_until_it_ends(harness, delivery_id, Exchange(took_ms=7, status=500, answer=answer))
        harness.deliveries.redeliver(delivery_id)
    log = harness.field(delivery_id, "log") or ""
    tries = decode_tries(log)
    assert len(log) <= 40_960
    assert [entry.number for entry in tries] == list(range(1, 31))
    assert {(entry.status, entry.took_ms) for entry in tries} == {(500, 7)}
    assert [tries[n].at for n in (0, 10, 20)] == starts
    assert [bool(entry.answer) for entry in tries] == [False] * 24 + [True] * 6
    assert tries[-1].answer == answer


def test_a_receiver_queue_outlives_the_retry_schedule_with_a_short_retention(
    domain: Domain, receiver: Receiver, deliver_all: Callable[[], list[str]]
) -> None:
    day_ms = 86_400_000
    domain.deliveries._scripts.exhausted_kept_s = 86_400
    receiver.answer = lambda _request, _number: Answer(500)
    end_job(domain, webhook_url=receiver.url)
    deliver_all()
    key = domain.keys.receiver_queue(queue_of(domain))
    assert int(str(domain.redis.pttl(key))) > (75 * 3_600_000 * 1.2) + day_ms
    # Each attempt extends the lifetime again: a receiver may need longer than one schedule to recover.
    domain.redis.pexpire(key, 60_000)
    (delivery,) = domain.redis.zrange(domain.keys.receiver_queue_due(queue_of(domain)), 0, -1)
    domain.deliveries.redeliver(domain.keys.id_of(str(delivery)))
    deliver_all()
    assert int(str(domain.redis.pttl(key))) > (75 * 3_600_000 * 1.2) + day_ms


def test_a_delivery_does_not_make_its_endpoint_expire(harness: DeliveryHarness) -> None:
    line = harness.endpoint("a")
    harness.fan_out(line)
    harness.deliver_planned()
    assert harness.redis.pttl(harness.keys.receiver_queue(line)) == -1


@pytest.mark.parametrize("change", [{"url": True}, {"enabled": True}])
def test_a_410_does_not_disable_an_endpoint_that_was_changed_or_enabled_since(
    domain: Domain, receiver: Receiver, deliver_all: Callable[[], list[str]], change: dict[str, bool]
) -> None:
    endpoint = domain.endpoints.create("acme", EndpointFields(url=f"{receiver.url}/old"))
    _, delivery_id = domain.endpoints.ping("acme", endpoint.id)

    def answer(_request: object, number: int) -> Answer:
        if number:
            return Answer()
        if change.get("enabled"):
            domain.endpoints.change("acme", endpoint.id, EndpointChange(enabled=False))
            domain.endpoints.change("acme", endpoint.id, EndpointChange(enabled=True))
        else:
            domain.endpoints.change("acme", endpoint.id, EndpointChange(url=f"{receiver.url}/new"))
        return Answer(410)

    receiver.answer = answer
    results = deliver_all()
    assert domain.endpoints.get("acme", endpoint.id).enabled
    # The delivery goes to the new receiver, which has not answered 410.
    assert results[-1] == "the receiver answered 200"
    assert [got.path for got in receiver.requests] == ["/old", "/new" if change.get("url") else "/old"]
    delivery = domain.delivery_log.get("acme", delivery_id)
    assert (delivery.state, [entry.status for entry in delivery.attempts]) == ("succeeded", [410, 200])


def test_a_410_disables_an_endpoint_of_which_only_the_description_changed(
    domain: Domain, receiver: Receiver, deliver_all: Callable[[], list[str]]
) -> None:
    endpoint = domain.endpoints.create("acme", EndpointFields(url=receiver.url))
    domain.endpoints.ping("acme", endpoint.id)

    def answer(_request: object, _number: int) -> Answer:
        domain.endpoints.change("acme", endpoint.id, EndpointChange(description="the shop", url=receiver.url))
        return Answer(410)

    receiver.answer = answer
    deliver_all()
    assert domain.endpoints.get("acme", endpoint.id).disabled_reason == "gone"


def test_a_new_address_does_not_inherit_the_failures_of_the_old_one(
    domain: Domain, receiver: Receiver, deliver_all: Callable[[], list[str]]
) -> None:
    endpoint = domain.endpoints.create("acme", EndpointFields(url=f"{receiver.url}/old"))
    receiver.answer = lambda got, _number: (
        Answer(503, headers={"retry-after": "3600"}) if got.path == "/old" else Answer()
    )
    domain.endpoints.ping("acme", endpoint.id)
    deliver_all()
    assert domain.endpoints.get("acme", endpoint.id).failing_since
    changed = domain.endpoints.change("acme", endpoint.id, EndpointChange(url=f"{receiver.url}/new"))
    assert (changed.failing_since, changed.resting_until) == (None, None)
    domain.endpoints.ping("acme", endpoint.id)
    assert deliver_all() == ["the receiver answered 200"]
