"""Endpoints and deliveries over HTTP, with a real receiver."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.support.api_server import Api, api_of, endpoint_at, fields_of, problem
from tests.support.ended_jobs import end_job
from tests.support.receiver import Answer, Receiver
from tests.support.webhook_worker import WebhookRunner

UNKNOWN = "ep_01KD3V6E5Y2M8Q4T7W9Z0ABCDE"


def listed(api: Api, endpoint_id: str, **query: Any) -> list[dict[str, Any]]:
    answer = api.http.get(f"/v1/webhooks/{endpoint_id}/deliveries", params=query)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


def test_job_events_are_delivered_to_subscribed_endpoints_only(
    api: Api, webhooks: WebhookRunner, receiver: Receiver
) -> None:
    jobs = endpoint_at(api, f"{receiver.url}/jobs", events=["job.*"])
    endpoint_at(api, f"{receiver.url}/failures", events=["job.failed", "batch.*"])
    endpoint_at(api, f"{receiver.url}/off", enabled=False)
    job_id = end_job(api.domain, tenant=api.tenant)
    end_job(api.domain, tenant="globex")
    assert webhooks.deliver_all() == ["the receiver answered 200"]
    (got,) = receiver.requests
    assert got.path == "/jobs"
    assert got.verified(jobs["secret"])["data"]["id"] == job_id
    end_job(api.domain, tenant=api.tenant, failed=True)
    assert len(webhooks.deliver_all()) == 2
    assert sorted(one.path for one in receiver.requests[1:]) == ["/failures", "/jobs"]


def test_jobs_enter_the_outbox_only_if_the_tenant_has_a_subscriber(api: Api, receiver: Receiver) -> None:
    def in_outbox() -> int:
        before = int(api.domain.redis.xlen(api.domain.keys.outbox))
        end_job(api.domain, tenant=api.tenant)
        return int(api.domain.redis.xlen(api.domain.keys.outbox)) - before

    assert in_outbox() == 0
    endpoint = endpoint_at(api, receiver.url, events=["batch.*"])
    path = f"/v1/webhooks/{endpoint['id']}"
    assert in_outbox() == 0
    for change, count in (
        ({"events": ["job.filtered"]}, 1),
        ({"enabled": False}, 0),
        ({"enabled": True}, 1),
        ({"events": ["model.*"]}, 0),
        ({"events": ["*"]}, 1),
    ):
        assert api.http.patch(path, json=change).status_code == 200
        assert in_outbox() == count, change
    assert api.http.delete(path).status_code == 204
    assert in_outbox() == 0


def test_a_ping_is_sent_to_its_endpoint_only_and_ignores_filters(
    api: Api, webhooks: WebhookRunner, receiver: Receiver
) -> None:
    endpoint = endpoint_at(api, f"{receiver.url}/a", events=["batch.completed"])
    endpoint_at(api, f"{receiver.url}/b", events=["*"])
    pinged = api.http.post(f"/v1/webhooks/{endpoint['id']}/test")
    assert pinged.status_code == 202
    webhooks.deliver_all()
    (got,) = receiver.requests
    event = got.verified(endpoint["secret"])
    assert (got.path, event["type"], got.id) == ("/a", "ping", pinged.json()["event_id"])
    delivery = api.http.get(f"/v1/deliveries/{pinged.json()['delivery_id']}").json()
    assert delivery["payload"] == event
    assert delivery["state"] == "succeeded"
    api.http.patch(f"/v1/webhooks/{endpoint['id']}", json={"enabled": False})
    problem(api.http.post(f"/v1/webhooks/{endpoint['id']}/test"), 409)


def test_attempts_are_listed_and_a_delivery_can_be_redelivered(
    api: Api, webhooks: WebhookRunner, receiver: Receiver
) -> None:
    endpoint = endpoint_at(api, receiver.url)
    receiver.answer = lambda _request, number: Answer(status=500, body=b"x" * 5000) if number == 0 else Answer()
    job_id = end_job(api.domain, tenant=api.tenant)
    assert webhooks.deliver_all() == ["retry: the receiver answered 500"]
    (delivery,) = listed(api, endpoint["id"])
    assert (delivery["state"], delivery["event_type"], delivery["subject"]) == ("waiting", "job.succeeded", job_id)
    (tried,) = delivery["attempts"]
    assert (tried["number"], tried["status"], tried["answer"]) == (1, 500, "x" * 1024)
    assert tried["took_ms"] >= 0
    assert datetime.fromisoformat(delivery["next_try_at"]) > datetime.fromisoformat(tried["at"])
    assert api.http.get(f"/v1/webhooks/{endpoint['id']}").json()["waiting"] == 1
    again = api.http.post(f"/v1/deliveries/{delivery['id']}/redeliver")
    assert again.status_code == 202
    release(api)
    assert webhooks.deliver_all() == ["the receiver answered 200"]
    assert {got.id for got in receiver.requests} == {delivery["event_id"]}
    (delivery,) = listed(api, endpoint["id"])
    assert (delivery["state"], [item["status"] for item in delivery["attempts"]]) == ("succeeded", [500, 200])
    assert api.http.post(f"/v1/deliveries/{delivery['id']}/redeliver").status_code == 202
    release(api)
    webhooks.deliver_all()
    assert len(receiver.requests) == 3


def release(api: Api) -> None:
    """End the lease of the delivery that the API dispatched. This test has no worker that reads from the broker."""
    for kind in ("quick", "new", "slow"):
        key = api.domain.keys.deliveries(f"leases:{kind}")
        for member in api.domain.redis.zrange(key, 0, -1):
            api.domain.redis.zadd(key, {str(member): 1})


def test_the_delivery_list_has_pages_and_filters(api: Api, webhooks: WebhookRunner, receiver: Receiver) -> None:
    endpoint = endpoint_at(api, receiver.url, events=["job.*"])
    receiver.answer = lambda got, _: Answer(status=500 if b'"job.failed"' in got.body else 200)
    good = [end_job(api.domain, tenant=api.tenant) for _ in range(5)]
    bad = [end_job(api.domain, tenant=api.tenant, failed=True) for _ in range(3)]
    own = end_job(api.domain, tenant=api.tenant, webhook_url=receiver.url)
    webhooks.deliver_all()
    subjects = [one["subject"] for one in listed(api, endpoint["id"])]
    assert subjects == [own, *reversed(bad), *reversed(good)]
    pages: list[str] = []
    cursor = None
    while True:
        query = {"limit": 4, **({"cursor": cursor} if cursor else {})}
        page = api.http.get(f"/v1/webhooks/{endpoint['id']}/deliveries", params=query).json()
        pages += [item["subject"] for item in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert pages == subjects
    assert {item["subject"] for item in listed(api, endpoint["id"], state="waiting")} == set(bad)
    assert {item["subject"] for item in listed(api, endpoint["id"], event_type="job.succeeded")} == {*good, own}
    every = api.http.get("/v1/deliveries", params={"subject": own}).json()["data"]
    assert sorted(item["endpoint_id"] or "" for item in every) == ["", endpoint["id"]]
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert listed(api, endpoint["id"], since=later) == []
    assert len(listed(api, endpoint["id"], until=later)) == 9


def test_recover_retries_all_undelivered_events_since_a_time(
    api: Api, webhooks: WebhookRunner, receiver: Receiver
) -> None:
    endpoint = endpoint_at(api, receiver.url)
    path = f"/v1/webhooks/{endpoint['id']}"
    receiver.answer = lambda _request, _number: Answer(status=410)
    first = end_job(api.domain, tenant=api.tenant)
    assert webhooks.deliver_all() == ["failure: the receiver answered 410"]
    changed = api.http.get(path).json()
    assert (changed["enabled"], changed["disabled_reason"]) == (False, "gone")
    since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    problem(api.http.post(f"{path}/recover", json={"since": since}), 409)
    receiver.answer = lambda _request, _number: Answer()
    enabled = api.http.patch(path, json={"enabled": True}).json()
    assert (enabled["enabled"], enabled["disabled_reason"]) == (True, None)
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert api.http.post(f"{path}/recover", json={"since": later}).json() == {"count": 0}
    assert api.http.post(f"{path}/recover", json={"since": since}).json() == {"count": 1}
    release(api)
    webhooks.deliver_all()
    assert json.loads(receiver.requests[-1].body)["data"]["id"] == first
    assert api.http.post(f"{path}/recover", json={"since": since}).json() == {"count": 0}
    answer = api.http.post(f"{path}/recover", json={"since": since, "states": ["succeeded"]})
    assert answer.json() == {"count": 1}


def test_disabling_an_endpoint_by_410_notifies_the_tenants_others(
    api: Api, webhooks: WebhookRunner, receiver: Receiver
) -> None:
    gone = endpoint_at(api, f"{receiver.url}/gone", events=["job.*"])
    endpoint_at(api, f"{receiver.url}/other", events=["endpoint.*"])
    receiver.answer = lambda got, _number: Answer(status=410 if got.path == "/gone" else 200)
    end_job(api.domain, tenant=api.tenant)
    webhooks.deliver_all()
    webhooks.deliver_all()
    event = json.loads(receiver.requests[-1].body)
    assert receiver.requests[-1].path == "/other"
    assert event["type"] == "endpoint.disabled"
    assert (event["data"]["id"], event["data"]["disabled_reason"]) == (gone["id"], "gone")
    assert "secret" not in event["data"]


def test_a_deleted_endpoint_gets_no_more_deliveries(api: Api, webhooks: WebhookRunner, receiver: Receiver) -> None:
    endpoint = endpoint_at(api, receiver.url)
    receiver.answer = lambda _request, _number: Answer(status=500)
    end_job(api.domain, tenant=api.tenant)
    webhooks.deliver_all()
    (delivery,) = listed(api, endpoint["id"])
    assert api.http.delete(f"/v1/webhooks/{endpoint['id']}").status_code == 204
    webhooks.deliver_all()
    changed = api.http.get(f"/v1/deliveries/{delivery['id']}").json()
    assert (changed["state"], changed["reason"]) == ("exhausted", "its endpoint is disabled: deleted")
    assert [item["id"] for item in api.http.get("/v1/deliveries").json()["data"]] == [delivery["id"]]
    problem(api.http.post(f"/v1/deliveries/{delivery['id']}/redeliver"), 409)
    for answer in (
        api.http.get(f"/v1/webhooks/{endpoint['id']}"),
        api.http.patch(f"/v1/webhooks/{endpoint['id']}", json={"enabled": True}),
        api.http.delete(f"/v1/webhooks/{endpoint['id']}"),
    ):
        problem(answer, 404)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/test"),
        ("POST", "/rotate-secret"),
        ("POST", "/recover"),
        ("GET", "/deliveries"),
    ],
)
def test_endpoints_are_invisible_to_other_tenants(api: Api, receiver: Receiver, method: str, path: str) -> None:
    with api_of(api.domain) as other:
        theirs = endpoint_at(other, receiver.url)["id"]
        body = {"since": "2026-01-01T00:00:00Z"} if path == "/recover" else {"enabled": True}
        for endpoint_id in (theirs, UNKNOWN, "nonsense"):
            problem(api.http.request(method, f"/v1/webhooks/{endpoint_id}{path}", json=body), 404)
        assert api.http.get("/v1/webhooks").json()["data"] == []


def test_deliveries_are_invisible_to_other_tenants(api: Api, webhooks: WebhookRunner, receiver: Receiver) -> None:
    with api_of(api.domain) as other:
        endpoint_at(other, receiver.url)
        end_job(api.domain, tenant=other.tenant)
        webhooks.deliver_all()
        (theirs,) = other.http.get("/v1/deliveries").json()["data"]
    assert api.http.get("/v1/deliveries").json()["data"] == []
    problem(api.http.get(f"/v1/deliveries/{theirs['id']}"), 404)
    problem(api.http.post(f"/v1/deliveries/{theirs['id']}/redeliver"), 404)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": "http://10.0.0.1/"}, "url"),
        ({"url": "https://169.254.169.254/"}, "url"),
        ({"url": "https://[::ffff:10.0.0.1]/"}, "url"),
        ({"url": "https://user@example.com/"}, "url"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"url": "https://example.com:22/"}, "url"),
        ({"url": "https://example.com/", "events": []}, "events"),
        ({"url": "https://example.com/", "events": ["job.done"]}, "events"),
        ({"url": "https://example.com/", "events": ["job.digest"]}, "events"),
        ({"url": "https://example.com/", "headers": {"Webhook-Id": "x"}}, "headers.Webhook-Id"),
        ({"url": "https://example.com/", "headers": {"a": "b\r\nc: d"}}, "headers.a"),
        ({"url": "https://example.com/", "rate_limit": 0}, "rate_limit"),
        ({"url": "https://example.com/", "rate_limit": 1e9}, "rate_limit"),
        ({"url": "https://example.com/", "description": "x" * 257}, "description"),
        ({"url": "https://example.com/", "unknown": 1}, "unknown"),
        ({"url": 7}, "url"),
    ],
)
def test_an_invalid_endpoint_is_a_problem_that_names_the_field(api: Api, body: dict[str, Any], field: str) -> None:
    assert field in fields_of(problem(api.http.post("/v1/webhooks", json=body), 422))
    assert api.http.get("/v1/webhooks").json()["data"] == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"webhook_events": ["job.digest"], "webhook_digest_s": 10}, "webhook_digest_s"),
        ({"webhook_events": ["job.*", "job.digest"], "webhook_digest_s": 10}, "webhook_events"),
        ({"webhook_digest_s": 10}, "webhook_digest_s"),
    ],
)
def test_a_digest_preference_without_effect_is_a_problem(api: Api, fields: dict[str, Any], field: str) -> None:
    body = {"items": [{"prompt": "p", "image": "https://example.com/a.png"}], **fields}
    refusal = problem(api.http.post("/v1/batches", json=body), 422)
    assert fields_of(refusal) == {field}
    assert "job.*" in refusal["errors"][0]["message"]


def test_a_change_of_an_endpoint_is_validated(api: Api, receiver: Receiver) -> None:
    endpoint = endpoint_at(api, receiver.url)
    path = f"/v1/webhooks/{endpoint['id']}"
    for change in ({"url": "http://10.0.0.1/"}, {"events": ["x"]}, {"headers": {"host": "x"}}, {"id": "ep_x"}):
        problem(api.http.patch(path, json=change), 422)
    changed = api.http.patch(path, json={"rate_limit": 5, "description": "d"}).json()
    assert (changed["rate_limit"], changed["description"], changed["url"]) == (5, "d", receiver.url)
    assert api.http.patch(path, json={"rate_limit": None}).json()["rate_limit"] is None


def test_a_tenant_has_at_most_fifty_endpoints(api: Api, receiver: Receiver) -> None:
    for _ in range(50):
        endpoint_at(api, receiver.url)
    problem(api.http.post("/v1/webhooks", json={"url": receiver.url}), 409)


@pytest.mark.parametrize("query", [{"cursor": "x"}, {"limit": 0}, {"limit": 1000}, {"state": "lost"}, {"stat": "x"}])
def test_an_invalid_delivery_query_is_a_problem(api: Api, receiver: Receiver, query: dict[str, Any]) -> None:
    problem(api.http.get("/v1/deliveries", params=query), 422)


def test_webhook_routes_need_a_key(api: Api) -> None:
    for path in ("/v1/webhooks", "/v1/deliveries", "/v1/webhook-secret"):
        problem(httpx.get(str(api.http.base_url.join(path))), 401)
