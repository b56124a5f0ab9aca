"""`retouch top`, as an operator and as a tenant sees it."""

import json
import os
import subprocess
import sys
from io import StringIO
from itertools import islice
from typing import Any

import pytest
from rich.console import Console

from jobs.wiring import Domain
from retouch.client import Client
from retouch.commands.top import looks
from retouch.errors import ProblemError, RetouchError, Unreachable
from tests.integration.api_harness import Api, api_of


def top(api: Api, key: str, *arguments: str) -> str:
    environment = {**os.environ, "RETOUCH_URL": str(api.http.base_url), "RETOUCH_API_KEY": key, "NO_COLOR": "1"}
    command = [sys.executable, "-m", "retouch", "top", *arguments]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return told.stdout


def test_top_shows_an_operator_the_fleet_and_a_tenant_its_own_jobs(domain: Domain) -> None:
    with api_of(domain) as api:
        api.succeed(api.submitted())
        admin, mine = (domain.tenants.create_key(api.tenant, admin=who) for who in (True, False))
        seen = top(api, admin, "--once")
        assert "all jobs" in seen
        assert "succeeded 1" in seen
        assert "test-worker" in seen
        assert "step-image-edit-2" in seen
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
    """A client whose looks fail with `fault`, while there is one."""

    fault: RetouchError | None = None

    def stats(self) -> dict[str, Any]:
        """What the service answers, or the fault."""
        if self.fault is not None:
            raise self.fault
        return super().stats()


def seen_in(look: object) -> str:
    written = StringIO()
    Console(width=160, file=written).print(look)
    return written.getvalue()


def test_top_keeps_its_last_picture_while_the_service_does_not_answer_and_goes_on(domain: Domain) -> None:
    with api_of(domain) as api:
        key = domain.tenants.create_key(api.tenant, admin=True)
        with Failing(str(api.http.base_url), key) as client:
            seen = looks(client)
            assert "does not answer" not in seen_in(next(seen))
            for client.fault in (Unreachable("no answer from there"), ProblemError(503, "Unavailable")):
                for look in islice(seen, 2):
                    assert "the service does not answer" in seen_in(look)
                    assert "step-image-edit-2" in seen_in(look)
            client.fault = None
            assert "does not answer" not in seen_in(next(seen))
            client.fault = ProblemError(401, "Unauthorized")
            with pytest.raises(ProblemError):
                next(seen)


def test_top_ends_where_the_service_does_not_answer_its_first_look() -> None:
    with Failing("http://127.0.0.1:9", "rt_key") as client:
        client.fault = Unreachable("no answer from there")
        with pytest.raises(Unreachable):
            next(looks(client))
