"""A failing receiver does not delay others: windows, breakers, rate limits and fairness, with a manual clock."""

from collections import Counter
from collections.abc import Callable
from itertools import count

import pytest
from redis import Redis

from jobs.webhooks.deliveries import DeliveryAttempt
from jobs.webhooks.retry_policy import Exchange
from tests.support.clock import Clock
from tests.support.deliveries import BAD, GOOD, HUNG, DeliveryHarness

_prefixes = count(1)


@pytest.fixture
def make_harness(redis: Redis, clock: Clock) -> Callable[..., DeliveryHarness]:
    return lambda threads: DeliveryHarness(redis, f"i{next(_prefixes)}:", clock, threads=threads)


@pytest.fixture
def harness(make_harness: Callable[..., DeliveryHarness]) -> DeliveryHarness:
    return make_harness(16)


def by_queue(started: list[tuple[str, int]], harness: DeliveryHarness) -> Counter[str]:
    return Counter(harness.keys.id_of(harness.field(key_and_number[0], "line") or "") for key_and_number in started)


def make_quick(harness: DeliveryHarness, *lines: str, successes: int = 40) -> None:
    """Let receivers answer quickly until their windows are wide."""
    for line in lines:
        harness.fan_out(line, number=successes)
    while harness.deliver_planned():
        pass
    for line in lines:
        assert harness.field(line, "kind") == "quick"


def test_a_hanging_receiver_delays_no_delivery_to_another_receiver(harness: DeliveryHarness) -> None:
    good, dead = harness.endpoint("good"), harness.endpoint("dead")
    harness.fan_out(good, dead, number=200)
    hanging: list[DeliveryAttempt] = []
    delivered = 0
    while True:
        started = [harness.claim(started) for started in harness.plan()]
        if not started:
            break
        for attempt in started:
            if attempt.queue["id"] == dead:
                hanging.append(attempt)
            else:
                delivered += 1
                harness.settle(attempt)
    # The good receiver has everything, although no exchange with the other one has ended.
    assert delivered == 200
    assert len(hanging) == 1
    harness.clock.advance(15)
    harness.heartbeat()
    for attempt in hanging:
        harness.settle(attempt, HUNG)
    assert by_queue(harness.plan(), harness)[dead] <= 2


def test_a_receiver_that_starts_to_hang_uses_at_most_half_of_the_threads(harness: DeliveryHarness) -> None:
    good, turning = harness.endpoint("good"), harness.endpoint("turning")
    make_quick(harness, good, turning)
    harness.fan_out(good, turning, number=100)
    hanging = 0
    while started := [harness.claim(started) for started in harness.plan()]:
        for attempt in started:
            if attempt.queue["id"] == good:
                harness.settle(attempt)
            else:
                hanging += 1
    assert harness.redis.zcard(harness.keys.deliveries_in_state(good, "waiting")) == 0
    assert hanging == 8


def test_many_dead_receivers_share_a_quarter_of_the_threads(harness: DeliveryHarness) -> None:
    good = harness.endpoint("good")
    dead = [harness.endpoint(f"dead{n}") for n in range(20)]
    make_quick(harness, good)
    for line in dead:
        harness.fan_out(line, number=10)
    for _ in range(10):
        started = [harness.claim(started) for started in harness.plan()]
        assert len(started) <= 8
        harness.clock.advance(15)
        harness.heartbeat()
        for attempt in started:
            harness.settle(attempt, HUNG)
    harness.fan_out(good, number=30)
    counts = by_queue(harness.plan(), harness)
    assert counts[good] == 8
    assert counts.total() - counts[good] <= 8


def test_a_slow_receiver_that_succeeds_shares_threads_with_the_slow_ones(harness: DeliveryHarness) -> None:
    slow, good = harness.endpoint("slow"), harness.endpoint("good")
    make_quick(harness, good)
    harness.fan_out(slow, number=100)
    for _ in range(10):
        for one in harness.plan():
            harness.settle(harness.claim(one), Exchange(took_ms=9000, status=200))
    assert harness.field(slow, "kind") == "slow"
    harness.fan_out(good, number=30)
    counts = by_queue(harness.plan(), harness)
    assert counts[slow] <= 4
    assert counts[good] == 8


def test_receiver_queues_share_the_threads_fairly(harness: DeliveryHarness) -> None:
    full, small = harness.endpoint("full"), harness.endpoint("small")
    make_quick(harness, full, small)
    harness.fan_out(full, number=90)
    harness.fan_out(small, number=3)
    assert by_queue(harness.plan(), harness)[small] == 3


def test_five_failures_in_a_row_open_the_breaker_and_one_success_closes_it(harness: DeliveryHarness) -> None:
    line = harness.endpoint("a")
    harness.fan_out(line, number=100)
    for _ in range(5):
        harness.deliver_planned(lambda _: BAD)
    (probe,) = harness.plan()
    assert harness.plan() == []
    harness.settle(harness.claim(probe), HUNG)
    # The probe used a thread for 15 s: the breaker stays open ten times as long.
    harness.clock.advance(148.9)
    harness.heartbeat()
    assert harness.plan() == []
    harness.clock.advance(0.1)
    harness.heartbeat()
    (probe,) = harness.plan()
    harness.settle(harness.claim(probe), GOOD)
    assert harness.plan() != []
    assert harness.field(line, "fails") == "0"


def test_deliveries_that_wait_for_a_breaker_use_up_no_try(harness: DeliveryHarness) -> None:
    line = harness.endpoint("a")
    ids = harness.fan_out(line, number=50)
    for _ in range(5):
        harness.deliver_planned(lambda _: BAD)
    tried = [delivery_id for delivery_id in ids if harness.field(delivery_id, "tries")]
    assert len(tried) == 5


def test_retry_after_pauses_all_deliveries_to_the_receiver(harness: DeliveryHarness) -> None:
    line = harness.endpoint("a")
    harness.fan_out(line, number=10)
    harness.deliver_planned(lambda _: Exchange(took_ms=5, status=429, retry_after_s=60))
    assert harness.plan() == []
    harness.clock.advance(59.999)
    harness.heartbeat()
    assert harness.plan() == []
    harness.clock.advance(0.001)
    assert harness.plan() != []


def test_a_success_that_was_running_does_not_end_the_pause_of_retry_after(harness: DeliveryHarness) -> None:
    line = harness.endpoint("a")
    make_quick(harness, line)
    harness.fan_out(line, number=10)
    first, second, *others = [harness.claim(started) for started in harness.plan()]
    assert len(others) == 6
    harness.settle(first, Exchange(took_ms=5, status=429, retry_after_s=60))
    harness.settle(second, GOOD)
    for attempt in others:
        harness.settle(attempt, GOOD)
    harness.clock.advance(59.999)
    harness.heartbeat()
    assert harness.plan() == []
    harness.clock.advance(0.001)
    assert len(harness.plan()) == 3
    assert harness.field(line, "fails") == "0"


def test_an_expired_retry_after_does_not_change_the_breaker_of_later_failures(harness: DeliveryHarness) -> None:
    line = harness.endpoint("a")
    harness.fan_out(line, number=20)
    harness.deliver_planned(lambda _: Exchange(took_ms=5, status=503, retry_after_s=60))
    harness.clock.advance(60)
    harness.heartbeat()
    for _ in range(4):
        harness.deliver_planned(lambda _: BAD)
    (probe,) = harness.plan()
    late = harness.claim(probe)
    harness.settle(late, HUNG)
    assert harness.plan() == []
    harness.clock.advance(149)
    harness.heartbeat()
    assert len(harness.deliver_planned()) == 1
    assert harness.plan() != []


def test_an_endpoints_rate_limit_holds(harness: DeliveryHarness) -> None:
    limited, free = harness.endpoint("limited", rate="2"), harness.endpoint("free")
    make_quick(harness, free)
    harness.fan_out(limited, free, number=40)
    counts: Counter[str] = Counter()
    for _ in range(100):
        while ended := harness.deliver_planned():
            counts.update(attempt.queue["id"] for attempt in ended)
        harness.clock.advance(0.1)
        harness.heartbeat()
    assert counts[free] == 40
    assert 19 <= counts[limited] <= 21


def test_a_410_disables_the_endpoint_and_creates_an_event(harness: DeliveryHarness) -> None:
    line = harness.endpoint("a", jobs="1")
    harness.redis.sadd(harness.keys.job_event_endpoints("acme"), harness.keys.receiver_queue(line))
    harness.redis.hset(harness.keys.tenant("acme"), "listening", "1")
    ids = harness.fan_out(line, number=450)
    harness.deliver_planned(lambda _: Exchange(took_ms=5, status=410))
    assert harness.field(line, "enabled") == "0"
    assert harness.field(line, "disabled_why") == "gone"
    (event,) = harness.outbox.read("t1", count=10, block_ms=0)
    assert (event.type, event.subject, event.tenant) == ("endpoint.disabled", line, "acme")
    assert harness.redis.hget(harness.keys.tenant("acme"), "listening") == "0"
    while any(harness.state(delivery_id) == "waiting" for delivery_id in ids):
        assert harness.plan() == []
    assert {harness.state(delivery_id) for delivery_id in ids} == {"exhausted"}
    assert harness.field(ids[-1], "why") == "its endpoint is disabled: gone"


def test_silent_receivers_delay_another_tenants_new_receiver_by_one_plan(
    harness: DeliveryHarness,
) -> None:
    silent = [harness.endpoint(f"silent{n}", tenant="globex") for n in range(200)]
    harness.fan_out(*silent)
    hanging = [harness.claim(started) for started in harness.plan()]
    good = harness.endpoint("good")
    (told,) = harness.fan_out(good)
    assert harness.plan() == []
    harness.clock.advance(15)
    harness.heartbeat()
    for attempt in hanging:
        harness.settle(attempt, HUNG)
    harness.deliver_planned(lambda attempt: GOOD if attempt.queue["id"] == good else HUNG)
    assert harness.state(told) == "succeeded"


def test_silent_receivers_delay_no_slow_receiver_of_another_tenant(harness: DeliveryHarness) -> None:
    silent = [harness.endpoint(f"silent{n}", tenant="globex", kind="slow") for n in range(100)]
    slow = harness.endpoint("slow", kind="slow")
    harness.fan_out(*silent, number=2)
    waiting = harness.fan_out(slow, number=5)
    for _ in range(5):
        harness.deliver_planned(
            lambda attempt: Exchange(took_ms=9000, status=200) if attempt.queue["id"] == slow else HUNG
        )
        harness.clock.advance(15)
        harness.heartbeat()
    assert {harness.state(delivery_id) for delivery_id in waiting} == {"succeeded"}


def test_an_idle_tenant_gains_no_advantage_over_a_busy_tenant(harness: DeliveryHarness) -> None:
    lines = {
        tenant: [harness.endpoint(f"{tenant}{n}", tenant=tenant, kind="slow") for n in range(8)]
        for tenant in ("acme", "globex")
    }
    slowly = Exchange(took_ms=9000, status=200)
    harness.fan_out(*lines["acme"], number=10)
    for _ in range(10):
        harness.deliver_planned(lambda _: slowly)
    harness.fan_out(*lines["globex"], number=10)
    counts: Counter[str] = Counter()
    for _ in range(5):
        counts.update(attempt.tenant for attempt in harness.deliver_planned(lambda _: slowly))
    assert counts.total() == 20
    assert abs(counts["acme"] - counts["globex"]) <= 2


def test_five_days_without_a_success_disable_an_endpoint(harness: DeliveryHarness) -> None:
    line = harness.endpoint("a")
    day = 86_400
    for gap in (0, 2 * day, 2 * day, day - 60):
        harness.clock.advance(gap)
        harness.heartbeat()
        harness.fan_out(line)
        harness.deliver_planned(lambda _: BAD)
        assert harness.field(line, "enabled") == "1"
    harness.clock.advance(60)
    harness.heartbeat()
    harness.deliver_planned(lambda _: BAD)
    assert harness.field(line, "disabled_why") == "failing"


def test_one_success_in_five_days_keeps_an_endpoint(harness: DeliveryHarness) -> None:
    line = harness.endpoint("a")
    for answer in (BAD, BAD, GOOD, BAD, BAD, BAD):
        harness.clock.advance(2 * 86_400)
        harness.heartbeat()
        harness.fan_out(line)
        harness.deliver_planned(lambda _, answer=answer: answer)  # type: ignore[misc]
    assert harness.field(line, "enabled") == "1"


def test_the_addresses_of_jobs_are_never_disabled(harness: DeliveryHarness) -> None:
    line = harness.endpoint("a")
    harness.redis.hdel(harness.keys.receiver_queue(line), "endpoint")
    harness.fan_out(line)
    harness.deliver_planned(lambda _: Exchange(took_ms=5, status=410))
    assert harness.field(line, "enabled") == "1"


def test_a_worker_that_is_gone_gets_no_deliveries(harness: DeliveryHarness) -> None:
    make_quick(harness, harness.endpoint("a"))
    harness.fan_out("ep_a", number=10)
    harness.clock.advance(16)
    assert harness.plan() == []
    harness.heartbeat()
    assert len(harness.plan()) == 8
    harness.deliveries.register("w1", 0)
    assert harness.plan() == []


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_few_threads_are_enough(make_harness: Callable[..., DeliveryHarness], threads: int) -> None:
    harness = make_harness(threads)
    harness.fan_out(harness.endpoint("a"), harness.endpoint("b"), number=20)
    delivered = 0
    while ended := harness.deliver_planned():
        delivered += len(ended)
    assert delivered == 40
