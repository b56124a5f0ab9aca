"""A killed process delays deliveries by a lease, and no event is lost."""

import threading
from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr
from redis.exceptions import RedisError

from infra.local.embedded_servers import Valkey
from jobs.foundation.settings import Settings
from jobs.wiring import Domain
from tests.support.ended_jobs import draft, end_jobs
from tests.support.fleet import Worker
from tests.support.receiver import Answer, ReceivedRequest, receiving
from tests.support.waiting import eventually

EVENTS = 300


def test_no_event_is_lost_when_the_webhook_worker_and_valkey_are_killed(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    with Valkey(tmp_path / "own") as valkey, receiving() as receiver:
        settings = make_settings(
            redis_url=SecretStr(valkey.url), broker_url=SecretStr(valkey.url_of(1)), lease_s=3.0, webhook_timeout_s=1.0
        )
        domain = Domain.open(settings)
        domain.planner.register_models()
        jobs = set(end_jobs(domain, [draft(webhook_url=receiver.url) for _ in range(EVENTS)]))
        killed = threading.Event()

        def answer(_request: ReceivedRequest, number: int) -> Answer:
            """Answer the first tenth at once, and the rest after the first worker is killed."""
            if number >= EVENTS // 10:
                killed.wait(120)
            return Answer()

        receiver.answer = answer
        first = webhook_worker(domain, tmp_path / "first.log")
        second = None
        try:
            receiver.wait_for(lambda got: len(got) >= EVENTS // 10)
            first.kill()
            killed.set()
            assert len(received_jobs(receiver.requests, domain)) < EVENTS
            second = webhook_worker(domain, tmp_path / "second.log").wait_ready()
            before = len(receiver.requests)
            receiver.wait_for(lambda got: len(got) >= min(EVENTS, before + EVENTS // 10))
            valkey.kill()
            valkey.restart()
            receiver.wait_for(lambda got: received_jobs(got, domain) == jobs, within_s=120)
            assert eventually(lambda: is_quiet(domain), what="the outbox and the lines are empty")
            ids = {(got.id, got.body) for got in receiver.requests}
            assert len(ids) == EVENTS
        finally:
            killed.set()
            for worker in filter(None, (first, second)):
                worker.close()
            domain.close()


def webhook_worker(domain: Domain, log: Path) -> Worker:
    """A worker with short exchanges and leases."""
    return Worker(domain, log, queues="webhooks", RETOUCH_WEBHOOK_TIMEOUT_S="1")


def received_jobs(got: list[ReceivedRequest], domain: Domain) -> set[str]:
    """The jobs of the received events. It verifies every signature."""
    secret = domain_secret(domain)
    return {request.verified(secret)["data"]["id"] for request in got}


_secrets: dict[str, str] = {}


def domain_secret(domain: Domain) -> str:
    """The tenant's secret, read once, because Valkey may be down later."""
    prefix = domain.keys.prefix
    if prefix not in _secrets:
        _secrets[prefix] = domain.tenants.webhook_secret("acme")
    return _secrets[prefix]


def is_quiet(domain: Domain) -> bool:
    try:
        return domain.redis.xlen(domain.keys.outbox) == 0 and all(
            domain.redis.zcard(domain.keys.deliveries(f"leases:{kind}")) == 0 for kind in ("quick", "new", "slow")
        )
    except RedisError:
        return False
