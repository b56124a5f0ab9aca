"""No webhook reaches a private address, whatever its URL, its name or its answer say; every exchange ends; and what a
worker cannot sign is not sent.
"""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from pydantic import SecretStr

from jobs.foundation.errors import ConfigurationError
from jobs.foundation.settings import Settings
from jobs.webhooks.delivery_models import Delivery
from jobs.webhooks.delivery_reader import DeliveryFilter
from jobs.webhooks.endpoint_models import EndpointFields
from jobs.wiring import Domain
from tests.support.clock import Clock
from tests.support.ended_jobs import end_job
from tests.support.receiver import Answer, Receiver, receiving
from tests.support.webhook_worker import webhook_runner
from tests.unit.jobs.webhooks.test_deliveries import HOSTILE


@pytest.fixture
def strict(make_settings: Callable[..., Settings]) -> Iterator[Domain]:
    """A domain whose operator allows no private address."""
    opened = Domain.open(make_settings(allow_private_addresses="false"))
    opened.planner.register_models()
    opened.tenants.ensure("acme")
    yield opened
    opened.close()


def only_delivery(domain: Domain) -> Delivery:
    (delivery,) = domain.delivery_log.page("acme", DeliveryFilter()).data
    return delivery


@pytest.mark.parametrize("url", [url for url in HOSTILE if len(url) < 2000])
def test_a_hostile_url_that_got_into_a_record_is_refused_when_it_is_told(strict: Domain, url: str) -> None:
    end_job(strict, webhook_url=url)
    with webhook_runner(strict, resolve=lambda _host, _port: pytest.fail("it must not be resolved")) as webhooks:
        (outcome,) = webhooks.deliver_all()
    assert outcome.startswith("retry: no webhook may be sent to this address: ")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.8", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fd00::1", "64:ff9b::7f00:1", "0.0.0.0"],  # noqa: S104
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_name_that_resolves_to_a_private_address_is_refused_at_connection(
    strict: Domain, receiver: Receiver, address: str, scheme: str
) -> None:
    end_job(strict, webhook_url=f"{scheme}://hooks.example.com/")
    with webhook_runner(strict, resolve=lambda _host, _port: [address]) as webhooks:
        (outcome,) = webhooks.deliver_all()
    assert "its host is a private address" in outcome
    assert receiver.requests == []


def test_a_redirect_is_a_failure_and_is_not_followed(domain: Domain, receiver: Receiver) -> None:
    with receiving() as other:
        receiver.answer = lambda _request, _number: Answer(status=302, headers={"location": other.url})
        end_job(domain, webhook_url=receiver.url)
        with webhook_runner(domain) as webhooks:
            assert webhooks.deliver_all() == ["retry: the receiver answered 302"]
        assert other.requests == []


def test_a_receiver_that_hangs_is_given_up_and_tried_again(domain: Domain, receiver: Receiver) -> None:
    receiver.answer = lambda _request, _number: Answer(hang=True)
    end_job(domain, webhook_url=receiver.url)
    with webhook_runner(domain, exchange_s=1) as webhooks:
        assert webhooks.deliver_all() == ["retry: no whole answer within 1 s"]


def test_an_answer_whose_body_never_ends_is_read_for_a_kilobyte(domain: Domain, receiver: Receiver) -> None:
    receiver.answer = lambda _request, _number: Answer(body=b"z" * 4_000_000)
    end_job(domain, webhook_url=receiver.url)
    with webhook_runner(domain) as webhooks:
        assert webhooks.deliver_all() == ["the receiver answered 200"]
    assert only_delivery(domain).attempts[0].answer == "z" * 1024


def test_an_answer_that_trickles_is_given_up_with_its_status_noted(domain: Domain) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        end_job(domain, webhook_url=f"http://127.0.0.1:{port}/")
        held: list[socket.socket] = []

        def answer_head() -> None:
            connection, _ = server.accept()
            held.append(connection)
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n123")

        thread = threading.Thread(target=answer_head, daemon=True)
        thread.start()
        with webhook_runner(domain, exchange_s=1.5) as webhooks:
            (outcome,) = webhooks.deliver_all()
        thread.join(60)
        held[0].close()
    assert outcome.startswith("retry: the answer's body broke off")
    (tried,) = only_delivery(domain).attempts
    assert (tried.status, tried.error is not None) == (200, True)


def test_nobody_listening_is_a_failure_that_says_so(domain: Domain) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
    end_job(domain, webhook_url=url)
    with webhook_runner(domain) as webhooks:
        (outcome,) = webhooks.deliver_all()
    assert outcome.startswith("retry: ")
    assert "refused" in outcome.lower()


def test_a_worker_without_the_right_key_sends_nothing_and_uses_up_no_try(
    make_settings: Callable[..., Settings], receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Domain.open(make_settings(secret_key=SecretStr("a random text of enough characters")))
    domains = [good, *(Domain.open(make_settings(secret_key=key)) for key in (None, SecretStr("quite another key")))]
    for domain in domains:
        monkeypatch.setattr(domain.deliveries._scripts, "_clock_ms", clock)
    good.planner.register_models()
    endpoint = good.endpoints.create("acme", EndpointFields(url=receiver.url))
    end_job(good)
    for wrong in domains[1:]:
        with webhook_runner(wrong) as webhooks, pytest.raises(ConfigurationError):
            webhooks.deliver_all()
        clock.advance(60)
    assert receiver.requests == []
    with webhook_runner(good) as webhooks:
        assert webhooks.deliver_all() == ["the receiver answered 200"]
    line = good.redis.hgetall(good.keys.receiver_queue(endpoint.id))
    assert (line["enabled"], line["fails"], "failing_since" in line) == ("1", "0", False)
    (delivery,) = good.delivery_log.page("acme", DeliveryFilter()).data
    assert [tried.error for tried in delivery.attempts] == ["the worker was lost"] * 2 + [None]
    assert good.redis.hget(good.keys.delivery(delivery.id), "tries") == "1"
    for domain in domains:
        domain.close()
