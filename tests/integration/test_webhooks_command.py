"""`retouch webhooks` against a real API and a real receiver."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog
from typer.testing import CliRunner, Result

from jobs.domain import Domain
from retouch.__main__ import app
from tests.integration.api_harness import Api, api_of
from tests.integration.ended_jobs import end_job
from tests.integration.receiver import Answer, Receiver, receiving
from tests.integration.telling_hand import telling


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    """The API runs in this process, whose output is the command's."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


@pytest.fixture
def api(domain: Domain) -> Iterator[Api]:
    with api_of(domain) as served:
        yield served


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


def environment(api: Api) -> dict[str, str]:
    key = api.http.headers["authorization"].removeprefix("Bearer ")
    return {"RETOUCH_URL": str(api.http.base_url), "RETOUCH_API_KEY": key, "RETOUCH_DEBUG": "", "NO_COLOR": "1"}


def run(api: Api, *arguments: str, status: int = 0) -> Result:
    result = CliRunner(env=environment(api)).invoke(app, ["webhooks", *arguments])
    assert result.exit_code == status, (result.stdout, result.stderr, result.exception)
    return result


def test_an_endpoint_is_made_listed_changed_tested_and_deleted(api: Api, receiver: Receiver) -> None:
    made = run(api, "create", receiver.url, "--events", "job.*", "--events", "batch.completed", "--header", "X-Shop: 7")
    endpoint_id, secret = made.stdout.split()
    assert secret.startswith("whsec_")
    assert run(api, "list").stdout.split("\t")[:3] == [endpoint_id, "enabled", "job.*,batch.completed"]
    shown = json.loads(run(api, "show", endpoint_id, "--json").stdout)
    assert shown["headers"] == {"X-Shop": "********"}
    assert "secret" not in shown
    run(api, "update", endpoint_id, "--description", "the shop", "--remove-header", "X-Shop", "--rate-limit", "5")
    text = run(api, "show", endpoint_id).stdout
    assert "the shop" in text
    assert "X-Shop" not in text
    with telling(api.domain):
        assert "succeeded" in run(api, "test", endpoint_id).stdout
        receiver.answer = lambda _got, _number: Answer(status=500)
        assert "500" in run(api, "test", endpoint_id, status=1).stdout
    fresh = run(api, "rotate-secret", endpoint_id).stdout.split()[1]
    assert fresh != secret
    run(api, "update", endpoint_id, "--disable")
    assert "disabled" in run(api, "list").stdout
    run(api, "test", endpoint_id, status=1)
    run(api, "delete", endpoint_id)
    assert run(api, "list").stdout == ""
    run(api, "show", endpoint_id, status=2)


def test_deliveries_are_listed_and_told_again(api: Api, receiver: Receiver) -> None:
    endpoint_id = run(api, "create", receiver.url).stdout.split()[0]
    receiver.answer = lambda _got, _number: Answer(status=500)
    with telling(api.domain):
        job_id = end_job(api.domain, tenant=api.tenant)
        receiver.wait_for(lambda got: len(got) == 1)
    row = run(api, "deliveries", endpoint_id, "--state", "waiting", "--since", "1h").stdout.strip().split("\t")
    assert (row[1], row[3], row[4], row[6]) == ("waiting", "job.succeeded", job_id, "500")
    assert json.loads(run(api, "deliveries", "--json", "--subject", "job_none").stdout) == {"data": []}
    assert run(api, "redeliver", row[0]).exit_code == 0
    run(api, "redeliver", row[0], "dlv_none", status=1)
    assert json.loads(run(api, "recover", endpoint_id, "--since", "1h", "--json").stdout) == {"count": 0}
    assert run(api, "secret").stdout.strip() == api.domain.tenants.webhook_secret(api.tenant)


@pytest.mark.parametrize(
    "arguments",
    [
        ("deliveries", "--state", "lost"),
        ("deliveries", "--since", "yesterday"),
        ("create", "https://example.com/", "--header", "nonsense"),
        ("create", "http://10.0.0.1/"),
        ("update", "ep_x"),
        ("show", "ep_x"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(api: Api, arguments: tuple[str, ...]) -> None:
    result = run(api, *arguments, status=2)
    assert "error:" in result.stderr


def test_tail_shows_each_try_as_it_is_made(api: Api, receiver: Receiver) -> None:
    run(api, "create", receiver.url)
    receiver.answer = lambda _got, number: Answer(status=500 if number == 0 else 204, body=b"")
    command = [sys.executable, "-m", "retouch", "webhooks", "tail", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment(api)})
    try:
        with telling(api.domain):
            job_id = end_job(api.domain, tenant=api.tenant)
            assert process.stdout is not None
            tries = [json.loads(process.stdout.readline()) for _ in range(2)]
    finally:
        process.kill()
        process.wait()
    assert [(one["subject"], one["attempt"]["number"], one["attempt"]["status"]) for one in tries] == [
        (job_id, 1, 500),
        (job_id, 2, 204),
    ]
