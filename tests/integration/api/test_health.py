"""Readiness, the access log, common response headers, and the OpenAPI document."""

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from jobs.wiring import Domain
from tests.support.api_server import FILE, PROMPT, Api, api_of, free_port, problem, served


def test_a_ready_api_lists_its_checks(api: Api):
    anonymous = httpx.Client(base_url=api.http.base_url, timeout=60)
    assert anonymous.get("/livez").json() == {"status": "alive"}
    answer = anonymous.get("/readyz")
    assert answer.status_code == 200
    ready = answer.json()
    assert ready["ready"] is True
    assert {name: check["ok"] for name, check in ready["checks"].items()} == {
        "redis": True,
        "bucket": True,
        "broker": True,
    }
    assert ready["edit_workers"] == 0
    api.work()
    assert anonymous.get("/readyz").json()["edit_workers"] == 1


@pytest.mark.parametrize("missing", ["redis", "bucket", "broker"])
def test_a_missing_service_makes_the_api_unready_but_still_alive(make_settings: Callable[..., Any], missing: str):
    port = free_port()
    changes: dict[str, dict[str, Any]] = {
        "redis": {"redis_url": SecretStr(f"redis://127.0.0.1:{port}/0")},
        "bucket": {"s3_endpoint_url": f"http://127.0.0.1:{port}"},
        "broker": {"broker_url": SecretStr(f"redis://127.0.0.1:{port}/0")},
    }
    domain = Domain.open(make_settings(**changes[missing]))
    try:
        with served(domain) as url:
            answer = httpx.get(f"{url}/readyz", timeout=30)
            assert answer.status_code == 503
            checks = answer.json()["checks"]
            assert [name for name, check in checks.items() if not check["ok"]] == [missing]
            assert httpx.get(f"{url}/livez", timeout=60).status_code == 200
    finally:
        domain.close()


def test_without_redis_every_route_returns_503_with_retry_after(make_settings: Callable[..., Any]):
    address = f"redis://127.0.0.1:{free_port()}/0"
    domain = Domain.open(make_settings(redis_url=SecretStr(address), broker_url=SecretStr(address)))
    try:
        with served(domain) as url:
            headers = {"Authorization": "Bearer rtk_any"}
            answer = httpx.get(f"{url}/v1/jobs", headers=headers, timeout=30)
            assert problem(answer, 503)["type"].endswith("unavailable")
            assert int(answer.headers["retry-after"]) > 0
            assert "127.0.0.1" not in answer.text
            data = {"prompt": PROMPT}
            answer = httpx.post(f"{url}/v1/images/edits", headers=headers, data=data, files=FILE, timeout=30)
            assert answer.status_code == 503
            assert answer.json()["error"]["type"] == "service_unavailable"
    finally:
        domain.close()


def test_without_the_bucket_no_job_is_stored(make_settings: Callable[..., Any]):
    domain = Domain.open(make_settings(s3_endpoint_url=f"http://127.0.0.1:{free_port()}"))
    try:
        domain.planner.register_models()
        with api_of(domain) as api:
            answer = api.submit()
            problem(answer, 503)
            assert answer.headers["retry-after"]
            assert domain.job_reader.page(api.tenant).data == []
    finally:
        domain.close()


def test_without_the_broker_a_submit_is_still_durable(make_settings: Callable[..., Any]):
    domain = Domain.open(make_settings(broker_url=SecretStr(f"redis://127.0.0.1:{free_port()}/0")))
    try:
        domain.planner.register_models()
        with api_of(domain) as api:
            api.work()
            assert api.submitted()
    finally:
        domain.close()


def test_every_response_has_the_request_id(api: Api):
    assert re.fullmatch(r"req_[0-9A-Z]{26}", api.http.get("/livez").headers["x-request-id"])
    assert api.http.get("/livez", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    generated = api.http.get("/v1/nothing", headers={"X-Request-Id": "a b\x7f" + "x" * 200})
    assert generated.headers["x-request-id"].startswith("req_")
    assert problem(generated, 404)["request_id"] == generated.headers["x-request-id"]


def test_the_access_log_has_the_route_but_no_prompt(api: Api):
    with capture_logs() as lines:
        job_id = api.submitted()
        api.http.get(f"/v1/jobs/{job_id}")
        api.http.head(f"/v1/jobs/{job_id}")
        api.http.get("/v1/nothing?prompt=secret")
        api.http.get("/livez")
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["method"], line["path"], line["status"]) for line in requests] == [
        ("POST", "/v1/jobs", 202),
        ("GET", "/v1/jobs/{job_id}", 200),
        ("HEAD", "/v1/jobs/{job_id}", 200),
        ("GET", "(no route)", 404),
    ]
    assert all(line["ms"] >= 0 for line in requests)
    assert PROMPT not in str(lines)
    assert "secret" not in str(lines)


def test_head_returns_the_headers_of_get_without_a_body(api: Api):
    job_id = api.submitted()
    for path in ("/livez", "/v1/jobs", f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}/input", "/openapi.json"):
        head, get = api.http.head(path), api.http.get(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-type" if get.content else "location"]
    assert api.http.head(f"/v1/jobs/{job_id}/cancel").status_code == 405


def test_cross_origin_requests_are_not_allowed(api: Api):
    answer = api.http.get("/livez", headers={"Origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_the_models_are_listed_with_their_limits(api: Api):
    (model,) = api.http.get("/v1/models").json()["data"]
    assert model["name"] == "step-image-edit-2"
    assert (model["dialect"], model["limits"]["concurrency"], model["limits"]["rpm"]) == ("stepfun", 5, 100)
    assert model["parked"] is False
    assert model["price_usd"] == 0.003
    assert "seed" in model["parameters"]
    assert model["queued"] == 0
    api.submitted()
    assert api.http.get("/v1/models").json()["data"][0]["queued"] == 1


def test_openapi_describes_both_body_formats_the_key_and_the_problems(api: Api):
    document = api.http.get("/openapi.json").json()
    submit = document["paths"]["/v1/jobs"]["post"]
    forms = submit["requestBody"]["content"]
    assert set(forms) == {"application/json", "multipart/form-data"}
    assert forms["multipart/form-data"]["schema"]["properties"]["image"]["format"] == "binary"
    assert forms["application/json"]["example"]["prompt"]
    assert (
        "image"
        in document["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"][
            "required"
        ]
    )
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    schemas = document["components"]["schemas"]
    assert "tenant" not in schemas["Job"]["properties"]
    assert "HTTPValidationError" not in str(document)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"]
            if path.startswith("/v1"):
                assert operation["security"] == [{"HTTPBearer": []}]
                assert "401" in operation["responses"]
    named = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert named <= set(schemas)
    assert api.http.get("/docs").status_code == 200
