"""`retouch webhooks` against a real API and a real receiver."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner, Result

from jobs.webhooks.delivery_reader import DeliveryFilter
from retouch.__main__ import app
from retouch.client import Client
from retouch.commands.webhooks import _new_tries
from retouch.webhooks import Delivery, Try
from tests.support.api_server import Api
from tests.support.ended_jobs import end_job
from tests.support.receiver import Answer, Receiver
from tests.support.webhook_worker import deliver_in_background, webhook_runner


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    """The API runs in this process, so its logs would appear in the command's output."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


def environment(api: Api) -> dict[str, str]:
    key = api.http.headers["authorization"].removeprefix("Bearer ")
    return {"RETOUCH_URL": str(api.http.base_url), "RETOUCH_API_KEY": key, "RETOUCH_DEBUG": "", "NO_COLOR": "1"}


def run(api: Api, *arguments: str, status: int = 0) -> Result:
    result = CliRunner(env=environment(api)).invoke(app, ["webhooks", *arguments])
    assert result.exit_code == status, (result.stdout, result.stderr, result.exception)
    return result


def test_an_endpoint_is_created_listed_changed_tested_and_deleted(api: Api, receiver: Receiver) -> None:
    created = run(
        api, "create", receiver.url, "--events", "job.*", "--events", "batch.completed", "--header", "X-Shop: 7"
    )
    endpoint_id, secret = created.stdout.split()
    assert secret.startswith("whsec_")
    assert run(api, "list").stdout.split("\t")[:3] == [endpoint_id, "enabled", "job.*,batch.completed"]
    shown = json.loads(run(api, "show", endpoint_id, "--json").stdout)
    assert shown["headers"] == {"X-Shop": "********"}
    assert "secret" not in shown
    run(api, "update", endpoint_id, "--description", "the shop", "--remove-header", "X-Shop", "--rate-limit", "5")
    text = run(api, "show", endpoint_id).stdout
    assert "the shop" in text
    assert "X-Shop" not in text
    with deliver_in_background(api.domain):
        assert "succeeded" in run(api, "test", endpoint_id).stdout
        receiver.answer = lambda _request, _number: Answer(status=500)
        assert "500" in run(api, "test", endpoint_id, status=1).stdout
    new_secret = run(api, "rotate-secret", endpoint_id).stdout.split()[1]
    assert new_secret != secret
    run(api, "update", endpoint_id, "--disable")
    assert "disabled" in run(api, "list").stdout
    run(api, "test", endpoint_id, status=1)
    run(api, "delete", endpoint_id)
    assert run(api, "list").stdout == ""
    run(api, "show", endpoint_id, status=2)


def test_deliveries_are_listed_and_redelivered(api: Api, receiver: Receiver) -> None:
    endpoint_id = run(api, "create", receiver.url).stdout.split()[0]
    receiver.answer = lambda _request, _number: Answer(status=500)
    with deliver_in_background(api.domain):
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
def test_invalid_arguments_are_wrong_usage(api: Api, arguments: tuple[str, ...]) -> None:
    result = run(api, *arguments, status=2)
    assert "error:" in result.stderr


def test_tail_shows_each_try_as_it_is_made(api: Api, receiver: Receiver) -> None:
    run(api, "create", receiver.url)
    receiver.answer = lambda _request, number: Answer(status=500 if number == 0 else 204, body=b"")
    command = [sys.executable, "-m", "retouch", "webhooks", "tail", "--json"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment(api)},
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == "listening\n"
        with deliver_in_background(api.domain):
            job_id = end_job(api.domain, tenant=api.tenant)
            assert process.stdout is not None
            tries = [json.loads(process.stdout.readline()) for _ in range(2)]
    finally:
        process.kill()
        process.wait()
    assert [(entry["subject"], entry["attempt"]["number"], entry["attempt"]["status"]) for entry in tries] == [
        (job_id, 1, 500),
        (job_id, 2, 204),
    ]


def test_tail_shows_a_new_try_of_an_old_event(api: Api, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    run(api, "create", receiver.url)
    for name, value in environment(api).items():
        monkeypatch.setenv(name, value)
    deliveries, log = api.domain.deliveries, api.domain.delivery_log
    with webhook_runner(api.domain) as webhooks, Client() as client:
        end_job(api.domain, tenant=api.tenant)
        webhooks.deliver_all()
        (delivery,) = log.page(api.tenant, DeliveryFilter()).data
        since = delivery.attempts[-1].at + timedelta(milliseconds=1)
        tail = _new_tries(client.webhooks, None, since)
        assert next(tail) == []
        deliveries.redeliver(delivery.id)
        assert webhooks.deliver_all() == ["the receiver answered 200"]
        assert [(shown.id, tried.number) for shown, tried in next(tail)] == [(delivery.id, 2)]
        assert next(tail) == []


class Listing:
    """A service with deliveries that the test sets."""

    def __init__(self) -> None:
        self.all: list[Delivery] = []

    def deliveries(
        self, _endpoint_id: str | None = None, *, limit: int | None = None, since: datetime | None = None
    ) -> Iterator[Delivery]:
        yield from [delivery for delivery in self.all if since is None or delivery.created_at >= since][:limit]


BEGUN = datetime(2026, 11, 22, 8, tzinfo=UTC)


def listed(number: int, age_s: float, *tries: tuple[int, float]) -> Delivery:
    """A delivery of an event that is `age_s` old at BEGUN; each try has a number and a time in seconds after BEGUN."""
    event: dict[str, Any] = {
        "event_id": "evt",
        "event_type": "ping",
        "subject": "ep",
        "url": "http://r",
        "state": "waiting",
    }
    attempts = [
        Try(number=try_number, at=BEGUN + timedelta(seconds=after_s), status=500) for try_number, after_s in tries
    ]
    return Delivery(id=f"dlv_{number}", created_at=BEGUN - timedelta(seconds=age_s), attempts=attempts, **event)


def test_tail_misses_no_try_when_a_log_drops_its_oldest() -> None:
    listing: Any = Listing()
    tail = _new_tries(listing, None, BEGUN)
    listing.all = [listed(1, 60, (1, -50), (2, 1), (3, 2))]
    assert [tried.number for _, tried in next(tail)] == [2, 3]
    listing.all = [listed(1, 60, (3, 2), (4, 3), (5, 4))]
    assert [tried.number for _, tried in next(tail)] == [4, 5]


def test_tail_reads_each_of_many_deliveries_and_shows_each_try_once() -> None:
    listing: Any = Listing()
    tail = _new_tries(listing, None, BEGUN)
    listing.all = [listed(number, number, (1, number)) for number in range(-100, 900)]
    shown = [delivery.id for _ in range(8) for delivery, _ in next(tail)]
    assert sorted(shown) == sorted(delivery.id for delivery in listing.all if delivery.attempts[0].at >= BEGUN)
