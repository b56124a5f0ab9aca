"""The real parts that tests run against: one Valkey and one SeaweedFS a session, a key prefix and a clock a test."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.local.embedded_servers import SeaweedFS, Valkey
from infra.local.harness import catalogue_toml, simulator_process
from jobs.foundation.settings import Settings
from jobs.wiring import Domain
from tests.support.clock import Clock
from tests.support.fleet import Fleet

_prefixes = count(1)


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with SeaweedFS(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_settings(
    valkey: Valkey, seaweedfs: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Settings]:
    """Settings on the session's servers under a key prefix of the test's own."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweedfs.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweedfs.secret_key)
    prefix = f"t{next(_prefixes)}:"

    def make(**changes: object) -> Settings:
        values: dict[str, object] = {
            "redis_url": SecretStr(valkey.url),
            "broker_url": SecretStr(valkey.url_of(1)),
            "key_prefix": prefix,
            "s3_endpoint_url": seaweedfs.endpoint_url,
            "s3_bucket": seaweedfs.bucket,
            "allow_private_addresses": "127.0.0.0/8,::1/128",
            "log_format": "console",
            "lease_s": 6,
        }
        return Settings.model_validate({**values, **changes})

    return make


@pytest.fixture(scope="session")
def shared_domain(valkey: Valkey, seaweedfs: SeaweedFS) -> Iterator[Domain]:
    """A domain for tests that keep apart by a tenant of their own: opening one costs more than most of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", seaweedfs.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", seaweedfs.secret_key)
        opened = Domain.open(
            Settings(
                redis_url=SecretStr(valkey.url),
                broker_url=SecretStr(valkey.url_of(1)),
                key_prefix="shared:",
                s3_endpoint_url=seaweedfs.endpoint_url,
                s3_bucket=seaweedfs.bucket,
                allow_private_addresses="127.0.0.0/8,::1/128",
                log_format="console",
            )
        )
        opened.planner.register_models()
        yield opened
        opened.close()


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings()


@pytest.fixture
def domain(settings: Settings) -> Iterator[Domain]:
    """The domain over a key prefix of the test's own, with the tenants `acme` and `globex` known."""
    opened = Domain.open(settings)
    opened.planner.register_models()
    for tenant in ("acme", "globex"):
        opened.tenants.ensure(tenant)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def simulator() -> Iterator[str]:
    """The session's simulator, for tests that ask for what they want in their prompts; its origin."""
    with simulator_process() as origin:
        yield origin


@pytest.fixture
def make_fleet(
    make_settings: Callable[..., Settings], simulator: str, tmp_path: Path
) -> Iterator[Callable[..., Fleet]]:
    """Fleets on the session's simulator, or on one of the test's own; limits are given by name."""
    fleets: list[Fleet] = []

    def make(origin: str = simulator, settings: Settings | None = None, **limits: object) -> Fleet:
        directory = tmp_path / f"fleet{len(fleets)}"
        directory.mkdir()
        config = directory / "retouch.toml"
        config.write_text(catalogue_toml(origin, **limits))
        base = settings or make_settings()
        opened = Domain.open(base.model_copy(update={"config": config}))
        opened.planner.register_models()
        for tenant in ("acme", "globex"):
            opened.tenants.ensure(tenant)
        fleets.append(Fleet(opened, origin, directory))
        return fleets[-1]

    yield make
    for fleet in fleets:
        fleet.close()
        fleet.domain.close()


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    return make_fleet()
