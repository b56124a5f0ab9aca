"""From a job's end to its receiver: the outbox, the fan-out, the deliveries and what a try's outcome does."""

import json
from collections.abc import Callable, Iterator
from itertools import count

import pytest
from redis import Redis

from jobs.audience import Target
from jobs.domain import Domain
from tests.conftest import Clock
from tests.integration.ended_jobs import end_job
from tests.integration.receiver import Answer, Receiver, receiving
from tests.integration.telling_hand import hand_of
from tests.integration.tellings import BAD, GOOD, Tellings

_prefixes = count(1)


@pytest.fixture
def tellings(redis: Redis, clock: Clock) -> Tellings:
    return Tellings(redis, f"d{next(_prefixes)}:", clock)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


@pytest.fixture
def told(domain: Domain) -> Iterator[Callable[[], list[str]]]:
    """Tells all there is to tell, in this thread; the outcomes of the tries, as Celery would see them."""
    with hand_of(domain) as hand:
        yield hand.tell


def test_a_jobs_webhook_url_is_told_of_its_end_as_the_api_shows_it(
    domain: Domain, receiver: Receiver, told: Callable[[], list[str]]
) -> None:
    job_id = end_job(domain, webhook_url=f"{receiver.url}/hook?shop=1", custom_id="SKU-1")
    assert told() == ["the receiver answered 200"]
    (got,) = receiver.got
    event = got.verified(domain.tenants.webhook_secret("acme"))
    assert got.path == "/hook?shop=1"
    assert event["type"] == "job.succeeded"
    shown = domain.store.get("acme", job_id).model_dump(mode="json")
    url = event["data"]["output"].pop("url")
    assert event["data"] == {**shown, "output": {k: v for k, v in shown["output"].items() if k != "url"}}
    assert "X-Amz-Expires=604800" in url
    assert told() == []


def test_a_job_that_names_no_url_tells_nobody(domain: Domain, told: Callable[[], list[str]]) -> None:
    end_job(domain)
    assert told() == []
    assert domain.redis.xlen(domain.keys.outbox) == 0


def test_every_try_sends_the_same_id_and_the_same_bytes(
    domain: Domain, receiver: Receiver, told: Callable[[], list[str]]
) -> None:
    end_job(domain, webhook_url=receiver.url)
    receiver.answer = lambda _got, number: Answer(status=500 if number == 0 else 204, body=b"")
    assert [outcome[:5] for outcome in told()] == ["retry"]
    (delivery,) = domain.redis.zrange(domain.keys.line_due(line_of(domain)), 0, -1)
    domain.deliveries.redeliver(domain.keys.id_of(str(delivery)))
    assert told() == ["the receiver answered 204"]
    first, second = receiver.got
    assert (first.id, first.body) == (second.id, second.body)
    second.verified(domain.tenants.webhook_secret("acme"))


def line_of(domain: Domain, tenant: str = "acme") -> str:
    (line,) = domain.redis.zrange(domain.keys.origins(tenant), 0, -1)
    return domain.keys.id_of(str(line))


def test_an_event_that_is_fanned_out_twice_is_told_once(tellings: Tellings) -> None:
    line = tellings.endpoint("a")
    event = tellings.event()
    assert tellings.deliveries.fan_out(event, "{}", [Target(line)]) == 1
    assert tellings.deliveries.fan_out(event, "{}", [Target(line)]) == -1
    assert len(tellings.plan()) == 1


def test_an_event_of_a_teller_that_died_is_taken_over(tellings: Tellings) -> None:
    tellings.outbox.put("job.failed", tenant="acme", subject="job_x", data="{}", at_ms=tellings.clock())
    (lost,) = tellings.outbox.read("dead", count=10, block_ms=0)
    assert tellings.outbox.read("alive", count=10, block_ms=0) == []
    assert tellings.outbox.take_over("alive", count=10, idle_ms=0) == [lost]


def test_a_lost_worker_costs_a_delivery_one_lease_and_no_try(tellings: Tellings) -> None:
    (delivery_id,) = tellings.tell(tellings.endpoint("a"))
    (started,) = tellings.plan()
    tellings.claim(started)
    assert tellings.plan() == []
    tellings.clock.advance(30)
    tellings.beat()
    ((again, number),) = tellings.plan()
    assert (again, number) == (delivery_id, 2)
    telling = tellings.claim((again, number))
    assert telling.tries == 0
    assert tellings.end(telling) == "succeeded"


def test_a_try_that_lost_its_lease_is_refused_unless_it_told(tellings: Tellings) -> None:
    (delivery_id,) = tellings.tell(tellings.endpoint("a"))
    old = tellings.claim(tellings.plan()[0])
    tellings.clock.advance(30)
    tellings.beat()
    new = tellings.claim(tellings.plan()[0])
    assert tellings.end(old, BAD) is None
    assert tellings.end(old, GOOD) is None
    assert tellings.state(delivery_id) == "sending"
    tellings.clock.advance(30)
    assert tellings.plan() == []
    assert tellings.state(delivery_id) == "waiting"
    assert tellings.end(new, GOOD) == "succeeded"
    tellings.beat()
    assert tellings.plan() == []


def test_only_the_first_of_two_claims_gets_the_try(tellings: Tellings) -> None:
    tellings.tell(tellings.endpoint("a"))
    (started,) = tellings.plan()
    tellings.claim(started)
    assert tellings.deliveries.claim(*started) is None


def test_failed_tries_follow_the_schedule_and_then_end_visibly(tellings: Tellings) -> None:
    (delivery_id,) = tellings.tell(tellings.endpoint("a"))
    waits = []
    while tellings.state(delivery_id) == "waiting":
        tellings.beat()
        (started,) = tellings.plan()
        tellings.end(tellings.claim(started), BAD)
        if tellings.state(delivery_id) == "waiting":
            waits.append(tellings.due_in_s(delivery_id))
            tellings.clock.advance(waits[-1])
    assert waits == [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]
    assert tellings.state(delivery_id) == "exhausted"
    assert tellings.field(delivery_id, "why") == "10 tries have failed"
    log = [json.loads(line) for line in (tellings.field(delivery_id, "log") or "").splitlines()]
    assert [entry["number"] for entry in log] == list(range(1, 11))
    assert {(entry["status"], entry["answer"]) for entry in log} == {(500, "oops")}
