"""`/metrics` and `/v1/stats` over HTTP."""

import json
import re
import time
from collections.abc import Callable

import httpx
import pytest
from pydantic import SecretStr

from infra.local.ports import Ports
from jobs.foundation.metric_catalogue import METRICS
from jobs.foundation.settings import Settings
from jobs.wiring import Domain
from tests.support.api_server import Api, api_of, problem, served
from tests.support.flower import scraped, total

FLEET = [metric for metric in METRICS if metric.place == "fleet" and metric.name != "retouch_tenant_jobs"]


@pytest.fixture
def with_a_job(domain: Domain):
    with api_of(domain) as api:
        api.succeed(api.submitted(custom_id="SKU-1041"))
        api.submitted(custom_id="SKU-1042", priority="low")
        yield api


def metrics_of(api: Api) -> str:
    return httpx.get(f"{api.http.base_url}/metrics", timeout=60).raise_for_status().text


def test_exactly_the_catalogued_fleet_metrics_are_exported(with_a_job: Api) -> None:
    samples = scraped(f"{with_a_job.http.base_url}/metrics")
    named = {name: {label for label, _ in labels} for name, labels in samples if not name.endswith("_bucket")}
    for metric in FLEET:
        assert named.get(metric.name) == set(metric.labels), metric.name
    known = {series for metric in METRICS for series in metric.series}
    ours = {name for name in named if name.startswith("retouch_") and not name.endswith("_created")}
    assert ours <= known


def test_metrics_need_no_key_and_contain_no_job_or_tenant(with_a_job: Api) -> None:
    text = metrics_of(with_a_job)
    assert with_a_job.tenant not in text
    assert "SKU" not in text
    assert not re.search(r"(job|bat)_[0-9A-Z]{26}", text)


def test_tenant_metrics_are_exported_only_if_the_setting_is_on(make_settings: Callable[..., Settings]) -> None:
    domain = Domain.open(make_settings(metrics_tenants=True))
    domain.planner.register_models()
    with api_of(domain) as api:
        api.submitted()
        samples = scraped(f"{api.http.base_url}/metrics")
        assert total(samples, "retouch_tenant_jobs", tenant=api.tenant, state="queued") == 1
    domain.close()


def test_a_draining_worker_does_not_count_for_its_queues(domain: Domain) -> None:
    def pulse(*, draining: bool) -> None:
        words = {"host": "h", "pid": 1, "queues": ["edits", "webhooks"], "slots": 0, "draining": draining}
        worker_info = json.dumps({**words, "seen_at": time.time()})
        domain.planner.renew("w@h", slots=0, worker_info=worker_info, held=[])

    with served(domain) as url:
        pulse(draining=False)
        assert total(scraped(f"{url}/metrics"), "retouch_workers", queue="webhooks") == 1
        pulse(draining=True)
        samples = scraped(f"{url}/metrics")
    for queue in ("edits", "webhooks"):
        assert total(samples, "retouch_workers", queue=queue) == 0


def test_latencies_are_labeled_by_route_and_not_by_path(with_a_job: Api) -> None:
    for number in range(3):
        with_a_job.http.get(f"/v1/jobs/job_01KD3V6E5Y2M8Q4T7W9Z0ABC{number:02d}")
        with_a_job.http.get(f"/nowhere/{number}")
    with_a_job.http.head("/v1/models")
    with_a_job.http.request("BREW", "/v1/models")
    samples = scraped(f"{with_a_job.http.base_url}/metrics")
    count = "retouch_http_request_seconds_count"
    assert total(samples, count, route="/v1/jobs/{job_id}", code="4xx", method="GET") == 3
    assert total(samples, count, route="(none)", code="4xx", method="GET") == 3
    assert total(samples, count, route="/v1/models", code="2xx", method="HEAD") == 1
    assert total(samples, count, method="OTHER") == 1
    assert "BREW" not in metrics_of(with_a_job)


def test_metrics_are_exported_without_redis(make_settings: Callable[..., Settings]) -> None:
    nowhere = SecretStr(f"redis://127.0.0.1:{Ports().choose('nobody')}/0")
    domain = Domain.open(make_settings(redis_url=nowhere))
    with served(domain) as url:
        samples = scraped(f"{url}/metrics")
    assert total(samples, "retouch_store_up") == 0
    assert not [name for name, _ in samples if name == "retouch_jobs"]
    assert total(samples, "process_start_time_seconds") > 0
    domain.close()


def test_tenants_see_their_own_stats_and_operators_also_the_fleet(domain: Domain) -> None:
    with api_of(domain) as own, api_of(domain) as other:
        own.succeed(own.submitted())
        other.submitted()
        other.submitted()
        mine = own.http.get("/v1/stats").raise_for_status().json()
        assert mine["fleet"] is None
        assert mine["tenant"]["name"] == own.tenant
        assert {state: n for state, n in mine["tenant"]["jobs"].items() if n} == {"succeeded": 1}
        assert mine["tenant"]["submitted_today"] == 1
        key = domain.api_keys.create(own.tenant, admin=True)
        answer = own.http.get("/v1/stats", headers={"authorization": f"Bearer {key}"}).raise_for_status().json()
        assert answer["tenant"]["jobs"] == mine["tenant"]["jobs"]
        assert sum(answer["fleet"]["jobs"].values()) == 3
        assert [worker["name"] for worker in answer["fleet"]["workers"]] == ["test-worker"]
        problem(httpx.get(f"{own.http.base_url}/v1/stats", timeout=60), 401)


def test_openapi_describes_the_fields_of_stats(domain: Domain) -> None:
    with served(domain) as url:
        document = httpx.get(f"{url}/openapi.json", timeout=60).json()
    answer = document["paths"]["/v1/stats"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/StatsReport"}
    schemas = document["components"]["schemas"]
    assert set(schemas["StatsReport"]["properties"]) == {"at", "tenant", "fleet"}
    assert "oldest_queued_s" in schemas["ModelStats"]["properties"]
