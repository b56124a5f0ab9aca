"""One receiver's trouble is its own: windows, breakers, rates and turns, with a clock that passes only when told."""

from collections import Counter
from collections.abc import Callable
from itertools import count

import pytest
from redis import Redis

from jobs.webhooks.deliveries import DeliveryAttempt
from jobs.webhooks.retry_policy import Exchange
from tests.support.clock import Clock
from tests.support.deliveries import BAD, GOOD, HUNG, Tellings

_prefixes = count(1)


@pytest.fixture
def make_tellings(redis: Redis, clock: Clock) -> Callable[..., Tellings]:
    return lambda threads: Tellings(redis, f"i{next(_prefixes)}:", clock, threads=threads)


@pytest.fixture
def tellings(make_tellings: Callable[..., Tellings]) -> Tellings:
    return make_tellings(16)


def by_line(started: list[tuple[str, int]], tellings: Tellings) -> Counter[str]:
    return Counter(tellings.keys.id_of(tellings.field(one[0], "line") or "") for one in started)


def make_quick(tellings: Tellings, *lines: str, successes: int = 40) -> None:
    """Receivers that have answered well and soon, often enough for their windows to be wide."""
    for line in lines:
        tellings.tell(line, number=successes)
    while tellings.turn():
        pass
    for line in lines:
        assert tellings.field(line, "kind") == "quick"


def test_a_receiver_that_hangs_for_ever_holds_back_none_of_anothers_deliveries(tellings: Tellings) -> None:
    good, dead = tellings.endpoint("good"), tellings.endpoint("dead")
    tellings.tell(good, dead, number=200)
    hanging: list[DeliveryAttempt] = []
    told = 0
    while True:
        started = [tellings.claim(one) for one in tellings.plan()]
        if not started:
            break
        for telling in started:
            if telling.line["id"] == dead:
                hanging.append(telling)
            else:
                told += 1
                tellings.end(telling)
    # Everything has reached the one, though not a single exchange with the other has come to its end.
    assert told == 200
    assert len(hanging) == 1
    tellings.clock.advance(15)
    tellings.beat()
    for telling in hanging:
        tellings.end(telling, HUNG)
    assert by_line(tellings.plan(), tellings)[dead] <= 2


def test_a_receiver_that_begins_to_hang_holds_at_most_half_of_the_threads(tellings: Tellings) -> None:
    good, turning = tellings.endpoint("good"), tellings.endpoint("turning")
    make_quick(tellings, good, turning)
    tellings.tell(good, turning, number=100)
    hanging = 0
    while started := [tellings.claim(one) for one in tellings.plan()]:
        for telling in started:
            if telling.line["id"] == good:
                tellings.end(telling)
            else:
                hanging += 1
    assert tellings.redis.zcard(tellings.keys.told(good, "waiting")) == 0
    assert hanging == 8


def test_many_dead_receivers_share_a_quarter_of_the_threads(tellings: Tellings) -> None:
    good = tellings.endpoint("good")
    dead = [tellings.endpoint(f"dead{n}") for n in range(20)]
    make_quick(tellings, good)
    for line in dead:
        tellings.tell(line, number=10)
    for _ in range(10):
        started = [tellings.claim(one) for one in tellings.plan()]
        assert len(started) <= 8
        tellings.clock.advance(15)
        tellings.beat()
        for telling in started:
            tellings.end(telling, HUNG)
    tellings.tell(good, number=30)
    counts = by_line(tellings.plan(), tellings)
    assert counts[good] == 8
    assert counts.total() - counts[good] <= 8


def test_a_slow_receiver_that_succeeds_shares_threads_with_the_slow_ones(tellings: Tellings) -> None:
    slow, good = tellings.endpoint("slow"), tellings.endpoint("good")
    make_quick(tellings, good)
    tellings.tell(slow, number=100)
    for _ in range(10):
        for one in tellings.plan():
            tellings.end(tellings.claim(one), Exchange(took_ms=9000, status=200))
    assert tellings.field(slow, "kind") == "slow"
    tellings.tell(good, number=30)
    counts = by_line(tellings.plan(), tellings)
    assert counts[slow] <= 4
    assert counts[good] == 8


def test_lines_take_turns(tellings: Tellings) -> None:
    full, small = tellings.endpoint("full"), tellings.endpoint("small")
    make_quick(tellings, full, small)
    tellings.tell(full, number=90)
    tellings.tell(small, number=3)
    assert by_line(tellings.plan(), tellings)[small] == 3


def test_five_failures_in_a_row_open_the_breaker_and_one_success_closes_it(tellings: Tellings) -> None:
    line = tellings.endpoint("a")
    tellings.tell(line, number=100)
    for _ in range(5):
        tellings.turn(lambda _: BAD)
    (probe,) = tellings.plan()
    assert tellings.plan() == []
    tellings.end(tellings.claim(probe), HUNG)
    # It held a thread for 15 s: for ten times as long it is left alone.
    tellings.clock.advance(148.9)
    tellings.beat()
    assert tellings.plan() == []
    tellings.clock.advance(0.1)
    tellings.beat()
    (probe,) = tellings.plan()
    tellings.end(tellings.claim(probe), GOOD)
    assert tellings.plan() != []
    assert tellings.field(line, "fails") == "0"


def test_what_waits_for_a_breaker_uses_up_no_try(tellings: Tellings) -> None:
    line = tellings.endpoint("a")
    ids = tellings.tell(line, number=50)
    for _ in range(5):
        tellings.turn(lambda _: BAD)
    tried = [one for one in ids if tellings.field(one, "tries")]
    assert len(tried) == 5


def test_retry_after_lets_the_whole_receiver_rest(tellings: Tellings) -> None:
    line = tellings.endpoint("a")
    tellings.tell(line, number=10)
    tellings.turn(lambda _: Exchange(took_ms=5, status=429, retry_after_s=60))
    assert tellings.plan() == []
    tellings.clock.advance(59.999)
    tellings.beat()
    assert tellings.plan() == []
    tellings.clock.advance(0.001)
    assert tellings.plan() != []


def test_a_success_that_was_under_way_does_not_end_the_rest_a_receiver_asked_for(tellings: Tellings) -> None:
    line = tellings.endpoint("a")
    make_quick(tellings, line)
    tellings.tell(line, number=10)
    first, second, *others = [tellings.claim(one) for one in tellings.plan()]
    assert len(others) == 6
    tellings.end(first, Exchange(took_ms=5, status=429, retry_after_s=60))
    tellings.end(second, GOOD)
    for telling in others:
        tellings.end(telling, GOOD)
    tellings.clock.advance(59.999)
    tellings.beat()
    assert tellings.plan() == []
    tellings.clock.advance(0.001)
    assert len(tellings.plan()) == 3
    assert tellings.field(line, "fails") == "0"


def test_a_rest_that_is_over_does_not_outlast_the_breaker_of_later_failures(tellings: Tellings) -> None:
    line = tellings.endpoint("a")
    tellings.tell(line, number=20)
    tellings.turn(lambda _: Exchange(took_ms=5, status=503, retry_after_s=60))
    tellings.clock.advance(60)
    tellings.beat()
    for _ in range(4):
        tellings.turn(lambda _: BAD)
    (probe,) = tellings.plan()
    late = tellings.claim(probe)
    tellings.end(late, HUNG)
    assert tellings.plan() == []
    tellings.clock.advance(149)
    tellings.beat()
    assert len(tellings.turn()) == 1
    assert tellings.plan() != []


def test_the_rate_limit_of_an_endpoint_holds(tellings: Tellings) -> None:
    limited, free = tellings.endpoint("limited", rate="2"), tellings.endpoint("free")
    make_quick(tellings, free)
    tellings.tell(limited, free, number=40)
    counts: Counter[str] = Counter()
    for _ in range(100):
        while ended := tellings.turn():
            counts.update(telling.line["id"] for telling in ended)
        tellings.clock.advance(0.1)
        tellings.beat()
    assert counts[free] == 40
    assert 19 <= counts[limited] <= 21


def test_410_disables_the_endpoint_and_tells_the_others(tellings: Tellings) -> None:
    line = tellings.endpoint("a", jobs="1")
    tellings.redis.sadd(tellings.keys.listeners("acme"), tellings.keys.line(line))
    tellings.redis.hset(tellings.keys.tenant("acme"), "listening", "1")
    ids = tellings.tell(line, number=450)
    tellings.turn(lambda _: Exchange(took_ms=5, status=410))
    assert tellings.field(line, "enabled") == "0"
    assert tellings.field(line, "disabled_why") == "gone"
    (event,) = tellings.outbox.read("t1", count=10, block_ms=0)
    assert (event.type, event.subject, event.tenant) == ("endpoint.disabled", line, "acme")
    assert tellings.redis.hget(tellings.keys.tenant("acme"), "listening") == "0"
    while any(tellings.state(one) == "waiting" for one in ids):
        assert tellings.plan() == []
    assert {tellings.state(one) for one in ids} == {"exhausted"}
    assert tellings.field(ids[-1], "why") == "its endpoint is disabled: gone"


def test_hundreds_of_silent_receivers_of_one_tenant_delay_another_tenants_new_one_by_one_turn(
    tellings: Tellings,
) -> None:
    silent = [tellings.endpoint(f"silent{n}", tenant="globex") for n in range(200)]
    tellings.tell(*silent)
    hanging = [tellings.claim(one) for one in tellings.plan()]
    good = tellings.endpoint("good")
    (told,) = tellings.tell(good)
    assert tellings.plan() == []
    tellings.clock.advance(15)
    tellings.beat()
    for telling in hanging:
        tellings.end(telling, HUNG)
    tellings.turn(lambda telling: GOOD if telling.line["id"] == good else HUNG)
    assert tellings.state(told) == "succeeded"


def test_silent_receivers_of_one_tenant_hold_back_no_slow_one_of_another(tellings: Tellings) -> None:
    silent = [tellings.endpoint(f"silent{n}", tenant="globex", kind="slow") for n in range(100)]
    slow = tellings.endpoint("slow", kind="slow")
    tellings.tell(*silent, number=2)
    waiting = tellings.tell(slow, number=5)
    for _ in range(5):
        tellings.turn(lambda telling: Exchange(took_ms=9000, status=200) if telling.line["id"] == slow else HUNG)
        tellings.clock.advance(15)
        tellings.beat()
    assert {tellings.state(one) for one in waiting} == {"succeeded"}


def test_a_tenant_that_was_idle_has_no_more_turns_than_one_that_was_not(tellings: Tellings) -> None:
    lines = {
        tenant: [tellings.endpoint(f"{tenant}{n}", tenant=tenant, kind="slow") for n in range(8)]
        for tenant in ("acme", "globex")
    }
    slowly = Exchange(took_ms=9000, status=200)
    tellings.tell(*lines["acme"], number=10)
    for _ in range(10):
        tellings.turn(lambda _: slowly)
    tellings.tell(*lines["globex"], number=10)
    counts: Counter[str] = Counter()
    for _ in range(5):
        counts.update(telling.tenant for telling in tellings.turn(lambda _: slowly))
    assert counts.total() == 20
    assert abs(counts["acme"] - counts["globex"]) <= 2


def test_five_days_of_nothing_but_failures_disable_an_endpoint(tellings: Tellings) -> None:
    line = tellings.endpoint("a")
    day = 86_400
    for gap in (0, 2 * day, 2 * day, day - 60):
        tellings.clock.advance(gap)
        tellings.beat()
        tellings.tell(line)
        tellings.turn(lambda _: BAD)
        assert tellings.field(line, "enabled") == "1"
    tellings.clock.advance(60)
    tellings.beat()
    tellings.turn(lambda _: BAD)
    assert tellings.field(line, "disabled_why") == "failing"


def test_one_success_in_five_days_keeps_an_endpoint(tellings: Tellings) -> None:
    line = tellings.endpoint("a")
    for answer in (BAD, BAD, GOOD, BAD, BAD, BAD):
        tellings.clock.advance(2 * 86_400)
        tellings.beat()
        tellings.tell(line)
        tellings.turn(lambda _, answer=answer: answer)  # type: ignore[misc]
    assert tellings.field(line, "enabled") == "1"


def test_addresses_that_jobs_name_are_never_disabled(tellings: Tellings) -> None:
    line = tellings.endpoint("a")
    tellings.redis.hdel(tellings.keys.line(line), "endpoint")
    tellings.tell(line)
    tellings.turn(lambda _: Exchange(took_ms=5, status=410))
    assert tellings.field(line, "enabled") == "1"


def test_a_worker_that_is_gone_no_longer_counts(tellings: Tellings) -> None:
    make_quick(tellings, tellings.endpoint("a"))
    tellings.tell("ep_a", number=10)
    tellings.clock.advance(16)
    assert tellings.plan() == []
    tellings.beat()
    assert len(tellings.plan()) == 8
    tellings.deliveries.register("w1", 0)
    assert tellings.plan() == []


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_few_threads_are_enough(make_tellings: Callable[..., Tellings], threads: int) -> None:
    tellings = make_tellings(threads)
    tellings.tell(tellings.endpoint("a"), tellings.endpoint("b"), number=20)
    told = 0
    while ended := tellings.turn():
        told += len(ended)
    assert told == 40
