"""`retouch top`, as an operator and as a tenant sees it."""

import json
import os
import subprocess
import sys

from jobs.domain import Domain
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
