"""A job's life over HTTP, with real Valkey and SeaweedFS."""

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from functools import partial

import httpx
import pytest

from jobs.edits.reader import JobReader
from jobs.foundation.errors import Filtered, Transient
from jobs.foundation.job_states import State
from jobs.plan.settlement import Settlement
from jobs.records.job_models import Job, JobRequest
from tests.support.api_server import CHELSEA, FILE, PROMPT, ROCKET, Api, fields_of, problem


def test_an_uploaded_picture_is_stored_and_its_job_is_durable(api: Api):
    answer = api.submit(custom_id="SKU-1041", metadata='{"season": "winter"}', **{"metadata.colour": "red"})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["state"] == "queued"
    assert job["model"] == "step-image-edit-2"
    assert 0 <= job["seed"] <= 2147483647
    assert job["metadata"] == {"season": "winter", "colour": "red"}
    assert job["warnings"] == []
    assert "tenant" not in job
    file = job["input"]
    assert file["image"] == f"s3://{api.domain.bucket.name}/retouch/{api.tenant}/inputs/{job['id']}.jpg"
    assert file["sha256"] == hashlib.sha256(ROCKET).hexdigest()
    assert (file["bytes"], file["media_type"], file["width"], file["height"]) == (len(ROCKET), "image/jpeg", 640, 427)
    assert api.http.get(f"/v1/jobs/{job['id']}").json() == {k: v for k, v in job.items() if k != "warnings"}
    redirect = api.http.get(f"/v1/jobs/{job['id']}/input")
    assert redirect.status_code == 307
    assert httpx.get(redirect.headers["location"]).content == ROCKET


def test_form_values_are_converted_to_the_types_of_their_fields(api: Api):
    job = api.submit(seed="7", steps="12", cfg_scale="2.5", text_mode="true", deadline_s="600").json()
    assert (job["seed"], job["steps"], job["cfg_scale"], job["text_mode"]) == (7, 12, 2.5, True)
    assert job["deadline_s"] == 600


def test_a_data_url_is_stored_like_an_upload(api: Api):
    image = "data:image/png;base64," + base64.b64encode(CHELSEA).decode()
    answer = api.http.post("/v1/jobs", json={"image": image, "prompt": PROMPT, "seed": 3})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert job["seed"] == 3
    assert job["input"]["image"].endswith(f"/inputs/{job['id']}.png")
    assert api.objects() == [f"retouch/{api.tenant}/inputs/{job['id']}.png"]


def test_a_picture_url_is_stored_unchanged(api: Api):
    url = "https://pictures.example/rocket.jpg"
    job = api.http.post("/v1/jobs", json={"image": url, "prompt": PROMPT}).json()
    assert job["input"] == {"image": url, **dict.fromkeys(("sha256", "bytes", "media_type", "width", "height"))}
    assert api.http.get(f"/v1/jobs/{job['id']}/input").headers["location"] == url
    assert api.objects() == []


def test_a_presigned_upload_can_only_be_submitted_by_its_tenant(api: Api):
    target = api.http.post("/v1/uploads", json={"filename": "a b.jpg", "media_type": "image/jpeg"})
    assert target.status_code == 201, target.text
    place = target.json()
    assert httpx.put(place["url"], content=ROCKET, headers=place["headers"]).status_code == 200
    job = api.http.post("/v1/jobs", json={"image": place["image"], "prompt": PROMPT})
    assert job.status_code == 202, job.text
    assert httpx.get(api.http.get(f"/v1/jobs/{job.json()['id']}/input").headers["location"]).content == ROCKET
    other = {"Authorization": f"Bearer {api.domain.api_keys.create('globex')}"}
    refused = api.http.post("/v1/jobs", json={"image": place["image"], "prompt": PROMPT}, headers=other)
    assert fields_of(problem(refused, 422)) == {"image"}


def test_an_upload_request_may_be_empty(api: Api):
    place = api.http.post("/v1/uploads").json()
    assert place["headers"] == {}
    assert httpx.put(place["url"], content=CHELSEA).status_code == 200
    assert f"s3://{api.domain.bucket.name}/{api.objects()[0]}" == place["image"]


def test_a_field_without_effect_is_accepted_with_a_warning(api: Api):
    warnings = api.submit(negative_prompt="blur", size="1024x1024").json()["warnings"]
    assert len(warnings) == 2
    assert "size" in warnings[0]
    assert "cfg_scale" in warnings[1]
    assert api.submit(negative_prompt="blur", cfg_scale="2").json()["warnings"] == []


def test_a_job_does_not_start_before_not_before(api: Api):
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    job = api.submit(not_before=later).json()
    assert job["state"] == "waiting"
    assert datetime.fromisoformat(job["not_before"]) == datetime.fromisoformat(later)


def test_the_202_of_a_waiting_job_equals_its_record(api: Api):
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    answer = api.submit(
        not_before=later,
        deadline_s="7200.5",
        custom_id="SKU-1041",
        metadata='{"season": "winter"}',
        priority="high",
        negative_prompt="blur",
        cfg_scale="2.5",
        output_key="shop/{custom_id}.{ext}",
        webhook_url="https://shop.example/hook",
        reuse="true",
    )
    assert answer.status_code == 202, answer.text
    submitted = answer.json()
    assert submitted.pop("warnings") == []
    assert submitted["state"] == "waiting"
    assert api.http.get(f"/v1/jobs/{submitted['id']}").json() == submitted


def test_the_202_of_a_job_for_a_parked_model_equals_its_record(api: Api):
    api.domain.planner.park("step-image-edit-2", "maintenance")
    api.work()
    answer = api.http.post("/v1/jobs", json={"image": "https://pictures.example/rocket.jpg", "prompt": PROMPT})
    submitted = answer.json()
    del submitted["warnings"]
    assert submitted["state"] == "queued"
    assert api.http.get(f"/v1/jobs/{submitted['id']}").json() == submitted


def test_a_submit_reads_a_job_only_when_it_is_replayed(api: Api, monkeypatch: pytest.MonkeyPatch):
    reads: list[str] = []
    get = JobReader.get

    def counted(store: JobReader, tenant: str, job_id: str) -> Job:
        reads.append(job_id)
        return get(store, tenant, job_id)

    monkeypatch.setattr(JobReader, "get", counted)
    submit = partial(api.domain.job_submission.submit, JobRequest(prompt=PROMPT), tenant=api.tenant, upload=ROCKET)
    first = submit(idempotency_key="order-7")
    assert reads == []
    api.domain.planner.cancel(first.job.id)
    again = submit(idempotency_key="order-7")
    assert (again.replayed, again.job.id, again.job.state) == (True, first.job.id, State.CANCELED)
    assert reads == [first.job.id]


def test_the_same_key_and_request_return_the_same_job_and_store_one_picture(api: Api):
    def submit(key: str, **fields: str) -> httpx.Response:
        return api.http.post(
            "/v1/jobs", data={"prompt": PROMPT, **fields}, files=FILE, headers={"Idempotency-Key": key}
        )

    first = submit("order-7")
    again = submit("order-7")
    assert (first.status_code, again.status_code) == (202, 202)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["id"] == first.json()["id"]
    assert again.json()["seed"] == first.json()["seed"]
    assert problem(submit("order-7", seed="1"), 422)["type"].endswith("idempotency-mismatch")
    assert submit("order-8").json()["id"] != first.json()["id"]
    assert len(api.objects()) == 2


def test_the_same_key_with_another_picture_is_refused(api: Api):
    headers = {"Idempotency-Key": "picture"}
    assert api.http.post("/v1/jobs", data={"prompt": PROMPT}, files=FILE, headers=headers).status_code == 202
    other = {"image": ("cat.png", CHELSEA, "image/png")}
    problem(api.http.post("/v1/jobs", data={"prompt": PROMPT}, files=other, headers=headers), 422)
    assert len(api.objects()) == 1


def test_idempotency_keys_are_separate_for_each_tenant(api: Api):
    headers = {"Idempotency-Key": "shared"}
    mine = api.http.post("/v1/jobs", data={"prompt": PROMPT}, files=FILE, headers=headers)
    other = headers | {"Authorization": f"Bearer {api.domain.api_keys.create('globex')}"}
    theirs = api.http.post("/v1/jobs", data={"prompt": PROMPT}, files=FILE, headers=other)
    assert theirs.status_code == 202
    assert theirs.json()["id"] != mine.json()["id"]


def test_an_exhausted_quota_returns_retry_after_and_stores_nothing(api: Api):
    api.domain.redis.hset(api.domain.keys.tenant(api.tenant), "max_queued", "1")
    api.submitted()
    refused = api.submit()
    problem(refused, 429)
    assert int(refused.headers["retry-after"]) > 0
    assert len(api.objects()) == 1


def test_a_finished_job_redirects_to_its_output(api: Api):
    job_id = api.submitted()
    assert problem(api.http.get(f"/v1/jobs/{job_id}/output"), 409)["detail"].startswith("the job is queued")
    api.succeed(job_id)
    job = api.http.get(f"/v1/jobs/{job_id}").json()
    assert job["state"] == "succeeded"
    assert job["attempts"][0]["trace_id"] == "trace-1"
    assert httpx.get(job["output"]["url"]).content == CHELSEA
    redirect = api.http.get(f"/v1/jobs/{job_id}/output")
    assert redirect.status_code == 307
    assert "no-store" in redirect.headers["cache-control"]
    assert httpx.get(redirect.headers["location"]).content == CHELSEA
    listed = api.http.get("/v1/jobs", params={"state": "succeeded"}).json()["data"]
    assert httpx.get(listed[0]["output"]["url"]).content == CHELSEA


def test_the_output_of_a_job_that_ended_without_one_is_a_404(api: Api):
    job_id = api.submitted()
    api.settle(job_id, Settlement.failed(Transient("the endpoint is down", provider_status=503)))
    assert api.http.get(f"/v1/jobs/{job_id}").json()["error"]["provider_status"] == 503
    problem(api.http.get(f"/v1/jobs/{job_id}/output"), 404)


def test_cancel_and_retry_conflict_if_the_state_forbids_them(api: Api):
    job_id = api.submitted()
    assert problem(api.http.post(f"/v1/jobs/{job_id}/retry"), 409)["type"].endswith("conflict")
    assert api.http.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "canceled"
    problem(api.http.post(f"/v1/jobs/{job_id}/cancel"), 409)
    assert api.http.post(f"/v1/jobs/{job_id}/retry").json()["state"] == "queued"
    api.settle(job_id, Settlement.filtered(Filtered("not shown", provider_status=451)))
    assert api.http.post(f"/v1/jobs/{job_id}/retry").json()["state"] in {"queued", "running"}


def test_a_job_is_invisible_to_other_tenants(api: Api):
    job_id = api.submitted()
    other = {"Authorization": f"Bearer {api.domain.api_keys.create('globex')}"}
    for method, path in [
        ("GET", ""),
        ("GET", "/input"),
        ("GET", "/output"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
    ]:
        problem(api.http.request(method, f"/v1/jobs/{job_id}{path}", headers=other), 404)
    assert api.state(job_id) is State.QUEUED
    assert api.http.get("/v1/jobs", headers=other).json() == {"data": [], "next_cursor": None}


def test_the_job_list_has_pages_and_filters(api: Api):
    ids = [api.submitted(custom_id=f"SKU-{number % 2}") for number in range(5)]
    first = api.http.get("/v1/jobs", params={"limit": 2}).json()
    assert [job["id"] for job in first["data"]] == ids[:2:-1]
    second = api.http.get("/v1/jobs", params={"limit": 3, "cursor": first["next_cursor"]}).json()
    assert [job["id"] for job in second["data"]] == ids[2::-1]
    named = api.http.get("/v1/jobs", params={"custom_id": "SKU-1"}).json()
    assert {job["id"] for job in named["data"]} == {ids[1], ids[3]}
    api.domain.planner.cancel(ids[0])
    canceled = api.http.get("/v1/jobs", params={"state": "canceled"}).json()
    assert [job["id"] for job in canceled["data"]] == [ids[0]]
    assert api.http.get("/v1/jobs", params={"batch_id": "bat_01KD3V6E5Y2M8Q4T7W9Z0ABCDE"}).json()["data"] == []
