from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from redis import Redis

from infra.local.embedded_servers import Valkey
from jobs.catalogue.catalogue import ModelSpec
from jobs.foundation.settings import Settings
from jobs.wiring import Domain
from tests.support.api_server import Api, api_of, served
from tests.support.clock import Clock
from tests.support.plans import Plans
from tests.support.receiver import Receiver, receiving
from tests.support.schedules import MIDNIGHT, Timetable, open_at
from tests.support.webhook_worker import WebhookRunner, webhook_runner

_prefixes = count(1)


@pytest.fixture
def redis(valkey: Valkey) -> Iterator[Redis]:
    client = Redis.from_url(valkey.url, decode_responses=True)
    yield client
    client.close()


@pytest.fixture
def make_plans(redis: Redis, clock: Clock) -> Callable[..., Plans]:
    def make(*models: ModelSpec, slots: int = 1000) -> Plans:
        return Plans(redis, f"p{next(_prefixes)}:", clock, *models, slots=slots)

    return make


@pytest.fixture
def plans(make_plans: Callable[..., Plans]) -> Plans:
    return make_plans()


@pytest.fixture(scope="session")
def shared_api(shared_domain: Domain) -> Iterator[str]:
    """The origin of an API over the shared domain."""
    with served(shared_domain) as origin:
        yield origin


@pytest.fixture
def api(domain: Domain) -> Iterator[Api]:
    """An API over the test's domain."""
    with api_of(domain) as api:
        yield api


@pytest.fixture
def webhooks(domain: Domain) -> Iterator[WebhookRunner]:
    """Delivers what is due, on the call of `deliver_all`."""
    with webhook_runner(domain) as runner:
        yield runner


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of webhooks."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def timetable(make_settings: Callable[..., Settings], tmp_path: Path, clock: Clock) -> Iterator[Timetable]:
    """Schedules whose clock shows midnight."""
    domain = open_at(make_settings, tmp_path, clock)
    schedules = Timetable(domain, clock)
    schedules.set(MIDNIGHT)
    yield schedules
    domain.close()
