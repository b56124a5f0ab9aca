"""`retouch top` for an operator and for a tenant."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from itertools import islice
from typing import Any

import pytest
from rich.console import Console

from jobs.foundation.settings import Settings
from jobs.wiring import Domain
from retouch.client import Client
from retouch.commands.top import screens
from retouch.errors import ProblemError, RetouchError, Unreachable
from tests.support.api_server import Api, api_of


def top(api: Api, key: str, *arguments: str) -> str:
    environment = {**os.environ, "RETOUCH_URL": str(api.http.base_url), "RETOUCH_API_KEY": key, "NO_COLOR": "1"}
    command = [sys.executable, "-m", "retouch", "top", *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return result.stdout


@pytest.fixture
def patient_domain(make_settings: Callable[..., Settings]) -> Iterator[Domain]:
    """A domain whose workers are known for two minutes after a pulse: `retouch top` has to start in that time."""
    opened = Domain.open(make_settings(lease_s=120))
    opened.planner.register_models()
    yield opened
    opened.close()


def test_top_shows_an_operator_the_fleet_and_a_tenant_its_own_jobs(patient_domain: Domain) -> None:
    domain = patient_domain
    with api_of(domain) as api:
        api.succeed(api.submitted())
        admin, mine = (domain.api_keys.create(api.tenant, admin=who) for who in (True, False))
        output = top(api, admin, "--once")
        assert "all jobs" in output
        assert "succeeded 1" in output
        assert "test-worker" in output
        assert "step-image-edit-2" in output
        domain.redis.hset(
            domain.keys.model("step-image-edit-2"), mapping={"parked": "quota", "park_reason": "no money"}
        )
        assert "step-image-edit-2 is parked: no money" in top(api, admin, "--once")
        own = top(api, mine, "--once")
        assert "succeeded 1" in own
        assert "parked: no money" in own
        assert "test-worker" not in own
        assert json.loads(top(api, mine, "--json"))["tenant"]["jobs"]["succeeded"] == 1


class Failing(Client):
    """A client that fails with `fault` if there is one."""

    fault: RetouchError | None = None

    def stats(self) -> dict[str, Any]:
        """The service's answer, or the fault."""
        if self.fault is not None:
            raise self.fault
        return super().stats()


def text_of(screen: object) -> str:
    output = StringIO()
    Console(width=160, file=output).print(screen)
    return output.getvalue()


def test_top_shows_its_last_state_while_the_service_does_not_answer(domain: Domain) -> None:
    with api_of(domain) as api:
        key = domain.api_keys.create(api.tenant, admin=True)
        with Failing(str(api.http.base_url), key) as client:
            shown = screens(client)
            assert "does not answer" not in text_of(next(shown))
            for client.fault in (Unreachable("no answer from there"), ProblemError(503, "Unavailable")):
                for screen in islice(shown, 2):
                    assert "the service does not answer" in text_of(screen)
                    assert "step-image-edit-2" in text_of(screen)
            client.fault = None
            assert "does not answer" not in text_of(next(shown))
            client.fault = ProblemError(401, "Unauthorized")
            with pytest.raises(ProblemError):
                next(shown)


def test_top_fails_if_the_service_does_not_answer_the_first_request() -> None:
    with Failing("http://127.0.0.1:9", "rt_key") as client:
        client.fault = Unreachable("no answer from there")
        with pytest.raises(Unreachable):
            next(screens(client))
