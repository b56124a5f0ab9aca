"""API keys: an operator creates, lists and revokes them with the command, without the API."""

import json
from collections.abc import Callable
from contextlib import closing
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from infra.local import admin as operator
from infra.local.harness import environment_of
from jobs.foundation.secret_box import ENCRYPTED_PREFIX
from jobs.foundation.settings import Settings
from jobs.wiring import Domain
from retouch.__main__ import app
from tests.support.api_server import served


def retouch(domain: Domain, *arguments: str, status: int = 0) -> Result:
    result = CliRunner(env=environment_of(domain.settings)).invoke(app, ["keys", *arguments])
    assert result.exit_code == status, result.output
    return result


def test_a_revoked_key_is_refused_and_the_others_are_not(domain: Domain) -> None:
    old = retouch(domain, "create", "acme", "--name", "until May").stdout.strip()
    new = retouch(domain, "create", "acme", "--name", "since May", "--admin").stdout.strip()
    listed = json.loads(retouch(domain, "list", "acme", "--json").stdout)["data"]
    assert [(key["name"], key["admin"]) for key in listed] == [("until May", False), ("since May", True)]
    shown = retouch(domain, "list", "acme").stdout
    assert listed[0]["id"] in shown
    assert old not in shown
    with served(domain) as url:

        def answer(key: str) -> int:
            headers = {"authorization": f"Bearer {key}"}
            return httpx.get(f"{url}/v1/jobs", headers=headers, trust_env=False).status_code

        assert (answer(old), answer(new)) == (200, 200)
        retouch(domain, "revoke", "acme", listed[0]["id"])
        assert (answer(old), answer(new)) == (401, 200)
    assert [key["id"] for key in json.loads(retouch(domain, "list", "acme", "--json").stdout)["data"]] == [
        listed[1]["id"]
    ]


def test_a_key_is_revoked_for_its_own_tenant_alone(domain: Domain) -> None:
    retouch(domain, "create", "acme")
    (key,) = json.loads(retouch(domain, "list", "acme", "--json").stdout)["data"]
    for tenant, key_id in (("globex", key["id"]), ("acme", "nothing")):
        assert "has no API key" in retouch(domain, "revoke", tenant, key_id, status=2).stderr
    assert json.loads(retouch(domain, "list", "acme", "--json").stdout)["data"] == [key]


def test_create_key_encrypts_the_webhook_secret_of_a_new_tenant(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_key = "a random text of enough characters"
    settings = make_settings(secret_key=SecretStr(secret_key))
    for name, value in environment_of(settings, RETOUCH_SECRET_KEY=secret_key).items():
        monkeypatch.setenv(name, value)
    operator.create_key("initech")
    with closing(Domain.open(settings)) as domain:
        record: Any = domain.redis.hgetall(domain.keys.tenant("initech"))
        assert record["secret"].startswith(ENCRYPTED_PREFIX)
        assert not [name for name, value in record.items() if "whsec_" in value]
        assert domain.tenants.webhook_secret("initech").startswith("whsec_")
