"""What a receiver trusts: secrets and their rotation, headers of its own, and how both lie in the store."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from jobs.foundation.settings import Settings
from jobs.foundation.webhook_secrets import secrets_of
from jobs.wiring import Domain
from tests.support.api_server import Api, api_of, endpoint_at, problem
from tests.support.clock import Clock
from tests.support.ended_jobs import end_job
from tests.support.receiver import Receiver
from tests.support.webhook_worker import WebhookRunner, webhook_runner


def test_a_secret_is_shown_when_it_is_made_and_never_again(api: Api, receiver: Receiver) -> None:
    endpoint = endpoint_at(api, receiver.url, description="the shop")
    secret = endpoint.pop("secret")
    assert secret.startswith("whsec_")
    assert api.http.get(f"/v1/webhooks/{endpoint['id']}").json() == endpoint
    page = api.http.get("/v1/webhooks")
    assert page.json()["data"] == [endpoint]
    assert secret not in page.text


def test_headers_are_sent_masked_when_read_and_changed_one_by_one(
    api: Api, webhooks: WebhookRunner, receiver: Receiver
) -> None:
    endpoint = endpoint_at(api, receiver.url, headers={"Authorization": "Bearer abc", "X-Shop": "7"})
    assert endpoint["headers"] == {"Authorization": "********", "X-Shop": "********"}
    path = f"/v1/webhooks/{endpoint['id']}"
    changed = api.http.patch(path, json={"headers": {"x-shop": None, "X-New": "1"}})
    assert changed.json()["headers"] == {"Authorization": "********", "X-New": "********"}
    api.http.post(f"{path}/test")
    assert webhooks.deliver_all() == ["the receiver answered 200"]
    headers = receiver.requests[0].headers
    assert (headers["authorization"], headers["x-new"], headers.get("x-shop")) == ("Bearer abc", "1", None)
    assert headers["content-type"] == "application/json"


def test_after_a_rotation_both_secrets_verify(api: Api, webhooks: WebhookRunner, receiver: Receiver) -> None:
    endpoint = endpoint_at(api, receiver.url)
    path = f"/v1/webhooks/{endpoint['id']}"
    fresh = api.http.post(f"{path}/rotate-secret").json()["secret"]
    assert fresh != endpoint["secret"]
    api.http.post(f"{path}/test")
    webhooks.deliver_all()
    for secret in (fresh, endpoint["secret"]):
        assert receiver.requests[0].verified(secret)["type"] == "ping"
    with pytest.raises(WebhookVerificationError):
        receiver.requests[0].verified("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")


def test_each_replaced_secret_signs_for_a_day_however_often_it_is_replaced(
    api: Api, webhooks: WebhookRunner, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = endpoint_at(api, receiver.url)
    path = f"/v1/webhooks/{endpoint['id']}"
    clock.now_ms = round(time.time() * 1000)
    monkeypatch.setattr(api.domain.endpoints, "_clock_ms", clock)
    second = api.http.post(f"{path}/rotate-secret").json()["secret"]
    clock.advance(3600)
    third = api.http.post(f"{path}/rotate-secret").json()["secret"]
    api.http.post(f"{path}/test")
    webhooks.deliver_all()
    for secret in (endpoint["secret"], second, third):
        assert receiver.requests[0].verified(secret)["type"] == "ping"
    record: Any = api.domain.redis.hgetall(api.domain.keys.receiver_queue(endpoint["id"]))
    secret_box, hour_ms = api.domain.secret_box, 3_600_000
    assert secrets_of(record, secret_box, clock() + 23 * hour_ms - 1) == [third, second, endpoint["secret"]]
    assert secrets_of(record, secret_box, clock() + 23 * hour_ms) == [third, second]
    assert secrets_of(record, secret_box, clock() + 24 * hour_ms) == [third]


def test_a_rotation_after_one_that_was_recorded_otherwise_keeps_both_old_secrets(api: Api) -> None:
    endpoint = endpoint_at(api, "https://shop.example/hook")
    key, secret_box, now_ms = api.domain.keys.receiver_queue(endpoint["id"]), api.domain.secret_box, time.time() * 1000
    api.domain.redis.hset(key, mapping={"old_secret": "whsec_older", "old_until": str(int(now_ms) + 60_000)})
    fresh = api.http.post(f"/v1/webhooks/{endpoint['id']}/rotate-secret").json()["secret"]
    record: Any = api.domain.redis.hgetall(key)
    assert secrets_of(record, secret_box, now_ms) == [fresh, endpoint["secret"], "whsec_older"]
    assert secrets_of(record, secret_box, now_ms + 61_000) == [fresh, endpoint["secret"]]


def test_a_rotation_that_would_silence_a_secret_before_its_day_is_over_is_refused(api: Api) -> None:
    endpoint = endpoint_at(api, "https://shop.example/hook")
    path = f"/v1/webhooks/{endpoint['id']}"
    for _ in range(9):
        assert api.http.post(f"{path}/rotate-secret").status_code == 200
    problem(api.http.post(f"{path}/rotate-secret"), 409)
    record: Any = api.domain.redis.hgetall(api.domain.keys.receiver_queue(endpoint["id"]))
    secrets = secrets_of(record, api.domain.secret_box, time.time() * 1000)
    assert (len(secrets), secrets[-1]) == (10, endpoint["secret"])
    assert api.http.delete(path).status_code == 204
    left = api.domain.redis.hgetall(api.domain.keys.receiver_queue(endpoint["id"]))
    assert not [name for name in left if "secret" in name]


def test_the_tenants_secret_can_be_read_and_replaced(api: Api, webhooks: WebhookRunner, receiver: Receiver) -> None:
    before = api.http.get("/v1/webhook-secret").json()["secret"]
    between = api.http.post("/v1/webhook-secret/rotate").json()["secret"]
    after = api.http.post("/v1/webhook-secret/rotate").json()["secret"]
    assert before != after == api.http.get("/v1/webhook-secret").json()["secret"]
    end_job(api.domain, tenant=api.tenant, webhook_url=receiver.url)
    webhooks.deliver_all()
    for secret in (before, between, after):
        assert receiver.requests[0].verified(secret)["type"] == "job.succeeded"


def test_with_a_key_secrets_lie_sealed_in_the_store(
    make_settings: Callable[..., Settings], receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(secret_key=SecretStr("a random text of enough characters"))
    domain = Domain.open(settings)
    domain.planner.register_models()
    with api_of(domain) as api, webhook_runner(domain) as webhooks:
        endpoint = endpoint_at(api, receiver.url, headers={"Authorization": "Bearer abcdef"})
        tenant_secret = api.http.get("/v1/webhook-secret").json()["secret"]
        end_job(domain, tenant=api.tenant, webhook_url=receiver.url)
        assert webhooks.deliver_all() == ["the receiver answered 200"] * 2
        for secret in (endpoint["secret"], tenant_secret):
            assert any(verifies(secret, got.body, got.headers) for got in receiver.requests)
        assert any(got.headers.get("authorization") == "Bearer abcdef" for got in receiver.requests)
        stored = everything(domain)
        for text in (endpoint["secret"], tenant_secret, "Bearer abcdef"):
            assert text not in stored
            assert text not in caplog.text
        fresh = api.http.post(f"/v1/webhooks/{endpoint['id']}/rotate-secret").json()["secret"]
        assert fresh not in everything(domain)
    domain.close()


def verifies(secret: str, body: bytes, headers: dict[str, str]) -> bool:
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return False
    return True


def everything(domain: Domain) -> str:
    """All hashes under the domain's prefix, as text."""
    keys = domain.redis.scan_iter(match=f"{domain.keys.prefix}*", _type="HASH")
    return json.dumps([domain.redis.hgetall(key) for key in keys])
