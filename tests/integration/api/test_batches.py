"""Batches over HTTP: submits in both formats, events, actions, and streamed results."""

import csv
import io
import json
import zipfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.foundation.job_states import State
from jobs.foundation.settings import Settings
from jobs.queueing.background_tasks import TaskKind
from jobs.records.job_models import Output
from jobs.wiring import Domain
from tests.support.api_server import CHELSEA, Api, problem
from tests.support.batches import BatchHarness, generous

PROMPT = "On a white background"


@pytest.fixture
def domain(make_settings: Callable[..., Settings], tmp_path: Path) -> Iterator[Domain]:
    with generous(make_settings, tmp_path) as opened:
        yield opened


class Kept(BatchHarness):
    """Hands that store their results in the bucket."""

    def output(self, claim: Any) -> Output:
        output = super().output(claim)
        self.domain.bucket.put(output.bucket, output.key, CHELSEA, media_type="image/png")
        return output


@pytest.fixture
def batch_harness(api: Api) -> BatchHarness:
    return Kept(api.domain, api.tenant)


def posted(api: Api, **body: Any) -> dict[str, Any]:
    answer = api.http.post("/v1/batches", json=body)
    assert answer.status_code == 202, answer.text
    batch: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/batches/{batch['id']}"
    return batch


def uploaded(api: Api, data: bytes, **fields: str) -> httpx.Response:
    return api.http.post("/v1/batches", data=fields, files={"manifest": ("m.csv", data, "text/csv")})


def items(number: int) -> list[dict[str, Any]]:
    return [{"custom_id": f"SKU-{n}", "image": f"https://example.com/{n}.jpg"} for n in range(1, number + 1)]


def test_inline_items_become_a_batch(api: Api, batch_harness: BatchHarness) -> None:
    batch = posted(api, name="shoes", defaults={"prompt": PROMPT}, items=items(3), metadata={"season": "winter"})
    assert (batch["state"], batch["name"], batch["metadata"]) == ("ingesting", "shoes", {"season": "winter"})
    batch_harness.read(batch["id"])
    batch = api.http.get(f"/v1/batches/{batch['id']}").json()
    assert (batch["state"], batch["counts"]["queued"], batch["counts"]["total"]) == ("running", 3, 3)
    assert "tenant" not in batch
    job = api.http.get("/v1/jobs", params={"batch_id": batch["id"], "custom_id": "SKU-2"}).json()["data"][0]
    assert (job["batch_id"], job["prompt"]) == (batch["id"], PROMPT)


def test_an_uploaded_manifest_takes_the_fields_of_a_job_as_defaults(api: Api, batch_harness: BatchHarness) -> None:
    answer = uploaded(api, batch_harness.csv(2), prompt=PROMPT, steps="8", trial="1", budget_usd="2.5")
    assert answer.status_code == 202, answer.text
    batch = answer.json()
    assert batch["defaults"] == {"prompt": PROMPT, "steps": 8, "model": "step-image-edit-2"}
    assert (batch["trial"], batch["budget_usd"]) == (1, 2.5)


def test_the_same_key_and_request_return_the_same_batch(api: Api, batch_harness: BatchHarness) -> None:
    key = {"Idempotency-Key": "once"}
    body = {"defaults": {"prompt": PROMPT}, "items": items(1)}
    first = api.http.post("/v1/batches", json=body, headers=key)
    again = api.http.post("/v1/batches", json=body, headers=key)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert len(api.http.get("/v1/batches").json()["data"]) == 1
    other = api.http.post("/v1/batches", json={**body, "items": items(2)}, headers=key)
    assert problem(other, 422)["type"].endswith("idempotency-mismatch")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, ""),
        ({"items": [], "defaults": {"prompt": "p"}}, ""),
        ({"items": items(1), "manifest": "s3://retouch/x.csv"}, ""),
        ({"items": items(1), "defaults": {"promt": "p"}}, "defaults.promt"),
        ({"items": items(1), "defaults": {"prompt": "p", "steps": 100_000}}, "defaults.steps"),
        ({"items": items(1), "defaults": {"prompt": "p", "model": "gpt-image-1"}}, "defaults.model"),
        ({"items": items(1), "trial": 0}, "trial"),
        ({"items": items(1), "budget_usd": -1}, "budget_usd"),
        ({"items": items(1), "webhook_url": "http://10.0.0.1/"}, "webhook_url"),
        ({"items": items(1), "webhook_events": ["jobs.*"]}, "webhook_events"),
        ({"manifest": "s3://elsewhere/x.csv"}, "manifest"),
        ({"manifest": "s3://retouch/there-is-none.csv"}, "manifest"),
        ({"manifest": "ftp://example.com/x.csv"}, "manifest"),
    ],
)
def test_an_invalid_batch_is_refused_with_the_field_name(api: Api, body: dict[str, Any], field: str) -> None:
    refusal = problem(api.http.post("/v1/batches", json=body), 422)
    assert field in {error["field"] for error in refusal["errors"]}
    assert api.http.get("/v1/batches").json() == {"data": [], "next_cursor": None}


@pytest.mark.parametrize("address", ["", "s3://retouch/" + "x" * 2048])
def test_a_form_with_an_invalid_manifest_address_is_refused(api: Api, address: str) -> None:
    form = {"prompt": (None, PROMPT), "manifest": (None, address)}
    refusal = problem(api.http.post("/v1/batches", files=form), 422)
    assert {error["field"] for error in refusal["errors"]} == {"manifest"}


def test_a_batch_is_invisible_to_other_tenants(api: Api, domain: Domain) -> None:
    batch = posted(api, defaults={"prompt": PROMPT}, items=items(1))
    key = domain.api_keys.create("stranger")
    for method, path in [
        ("GET", ""),
        ("GET", "/results"),
        ("GET", "/rejects"),
        ("GET", "/archive.zip"),
        ("GET", "/events"),
        ("GET", "/sheet/1"),
        *(("POST", f"/{act}") for act in ("approve", "pause", "resume", "cancel", "retry")),
    ]:
        answer = api.http.request(
            method, f"/v1/batches/{batch['id']}{path}", headers={"Authorization": f"Bearer {key}"}
        )
        problem(answer, 404)


def test_actions_return_the_batch_or_409_if_the_state_forbids_them(api: Api, batch_harness: BatchHarness) -> None:
    batch_id = posted(api, defaults={"prompt": PROMPT}, items=items(4), trial=1)["id"]
    batch_harness.read(batch_id)
    batch_harness.work()
    path = f"/v1/batches/{batch_id}"
    problem(api.http.post(f"{path}/pause"), 409)
    assert problem(api.http.post(f"{path}/approve", json={"steps": 100_000}), 422)["errors"][0]["field"] == "steps"
    assert api.http.post(f"{path}/approve", json={"prompt": "On marble"}).json()["changes"] == {"prompt": "On marble"}
    assert api.http.post(f"{path}/pause").json()["reason"] == "user"
    assert api.http.post(f"{path}/resume", json={"budget_usd": 5}).json()["budget_usd"] == 5
    batch_harness.work(State.FAILED)
    again = api.http.post(f"{path}/retry", json={"states": ["failed"]}).json()
    assert (again["state"], again["retrying"]) == ("running", True)
    batch_harness.do(TaskKind.SWEEP, batch_id)
    assert api.http.post(f"{path}/cancel").json()["state"] == "canceled"
    problem(api.http.post(f"{path}/cancel"), 409)


def test_results_are_in_manifest_order_and_include_refused_rows(api: Api, batch_harness: BatchHarness) -> None:
    lines = batch_harness.csv(3).splitlines()
    data = b"\n".join([lines[0], lines[1], b"BAD,nowhere", *lines[2:]])
    batch_id = uploaded(api, data, prompt=PROMPT).json()["id"]
    batch_harness.read(batch_id)
    for claim in batch_harness.start():
        batch_harness.end(claim, State.FAILED if claim.job_id.endswith("4") else State.SUCCEEDED)
    path = f"/v1/batches/{batch_id}/results"
    rows = [json.loads(line) for line in api.http.get(path).text.splitlines()]
    assert [(row["row"], row["state"]) for row in rows] == [
        (1, "succeeded"),
        (2, "rejected"),
        (3, "succeeded"),
        (4, "failed"),
    ]
    assert rows[1]["errors"][0]["field"] == "image"
    failed = api.http.get(path, params={"state": "failed"}).text.splitlines()
    assert [json.loads(line)["custom_id"] for line in failed] == ["SKU-3"]
    table = list(csv.DictReader(io.StringIO(api.http.get(path, params={"format": "csv"}).content.decode("utf-8-sig"))))
    assert [row["state"] for row in table] == ["succeeded", "rejected", "succeeded", "failed"]
    assert table[0]["output"].startswith("s3://")
    assert problem(api.http.get(path, params={"state": "done"}), 422)["errors"][0]["field"] == "state"


def test_csv_cells_never_contain_formulas(api: Api, batch_harness: BatchHarness) -> None:
    data = 'custom_id,image,metadata.note\n"=HYPERLINK(""http://x"")",s3://retouch/a.png,@SUM(A1)\n+1,nowhere,-2\n'
    batch_id = uploaded(api, data.encode(), prompt=PROMPT).json()["id"]
    batch_harness.read(batch_id)
    for path in ("results", "rejects"):
        text = api.http.get(f"/v1/batches/{batch_id}/{path}", params={"format": "csv"}).content.decode("utf-8-sig")
        for row in csv.reader(io.StringIO(text)):
            assert not [cell for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_a_corrected_rejects_file_is_a_valid_manifest(api: Api, batch_harness: BatchHarness) -> None:
    data = b"custom_id,image,prompt\nA,s3://retouch/a.png,p\nB,nowhere,=bold\nC,,p\n"
    first = uploaded(api, data).json()["id"]
    batch_harness.read(first)
    text = api.http.get(f"/v1/batches/{first}/rejects").content.decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["rejected_line"], row["rejected_field"], row["custom_id"]) for row in rows] == [
        ("3", "image", "B"),
        ("4", "image", "C"),
    ]
    mended = text.replace("nowhere", "s3://retouch/b.png").replace("C,,", "C,s3://retouch/c.png,")
    second = uploaded(api, mended.encode()).json()["id"]
    batch = batch_harness.read(second)
    assert (batch.counts.queued, batch.counts.rejected) == (2, 0)
    assert batch_harness.job(second, 1).prompt == "=bold"


def test_the_archive_contains_every_picture_named_by_custom_id(api: Api, batch_harness: BatchHarness) -> None:
    batch_id = posted(api, defaults={"prompt": PROMPT}, items=[*items(2), {"image": "https://example.com/x.jpg"}])["id"]
    batch_harness.read(batch_id)
    batch_harness.work()
    archive = zipfile.ZipFile(io.BytesIO(api.http.get(f"/v1/batches/{batch_id}/archive.zip").content))
    assert archive.testzip() is None
    names = archive.namelist()
    assert names[:2] == ["SKU-1.png", "SKU-2.png"]
    assert names[2].startswith("job_")
    assert archive.read("SKU-1.png") == CHELSEA


def test_an_ended_batch_stores_its_record_with_the_pictures(
    api: Api, batch_harness: BatchHarness, domain: Domain
) -> None:
    data = batch_harness.csv(3) + b"BAD,nowhere\n"
    batch_id = uploaded(api, data, prompt=PROMPT).json()["id"]
    batch_harness.read(batch_id)
    batch_harness.work()
    assert api.http.get(f"/v1/batches/{batch_id}").json()["results"] is None
    batch_harness.do(TaskKind.RESULTS, batch_id)
    results = api.http.get(f"/v1/batches/{batch_id}").json()["results"]
    prefix = f"s3://{domain.bucket.name}/outputs/{batch_id}"
    assert (results["jsonl"], results["csv"]) == (f"{prefix}/results.jsonl", f"{prefix}/results.csv")
    lines = domain.bucket.get(domain.bucket.name, f"outputs/{batch_id}/results.jsonl", max_bytes=1 << 20).splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["succeeded"] * 3 + ["rejected"]
    # The batch's record is kept longer than its jobs'.
    for number in range(1, 4):
        domain.redis.delete(domain.keys.job(f"job_{batch_id[4:]}-{number:07d}"))
    domain.redis.hset(domain.keys.batch(batch_id), mapping={"created": 0, "finished": 1})
    rows = api.http.get(f"/v1/batches/{batch_id}/results", params={"state": "succeeded"}).text.splitlines()
    assert [json.loads(row)["custom_id"] for row in rows] == ["SKU-1", "SKU-2", "SKU-3"]


def test_events_report_progress_and_then_the_final_state(api: Api, batch_harness: BatchHarness) -> None:
    batch_id = posted(api, defaults={"prompt": PROMPT}, items=items(2))["id"]
    batch_harness.read(batch_id)
    events: list[tuple[str, dict[str, Any]]] = []
    with api.http.stream("GET", f"/v1/batches/{batch_id}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        kind = ""
        for line in stream.iter_lines():
            if line.startswith("event:"):
                kind = line.removeprefix("event:").strip()
            if line.startswith("data:"):
                events.append((kind, json.loads(line.removeprefix("data:"))))
                if len(events) == 1:
                    batch_harness.work()
    assert events[0][0] == "progress"
    assert events[-1][0] == "completed"
    assert events[-1][1]["counts"]["succeeded"] == 2


def test_a_prefix_selects_every_picture_under_it(api: Api, batch_harness: BatchHarness, domain: Domain) -> None:
    for name in ("a.jpg", "sub/b.PNG", "notes.txt", "c.webp"):
        domain.bucket.put(domain.bucket.name, f"{api.tenant}-shop/{name}", b"x", media_type="image/png")
    batch_id = posted(api, defaults={"prompt": PROMPT}, manifest=f"s3://{domain.bucket.name}/{api.tenant}-shop/")["id"]
    assert batch_harness.read(batch_id).counts.total == 3
    assert [batch_harness.job(batch_id, row).custom_id for row in (1, 2, 3)] == ["a.jpg", "c.webp", "sub/b.PNG"]


def test_a_manifest_in_the_bucket_is_stored_unchanged(api: Api, batch_harness: BatchHarness, domain: Domain) -> None:
    key = f"{api.tenant}-shop/m.csv"
    domain.bucket.put(domain.bucket.name, key, batch_harness.csv(2), media_type="text/csv")
    batch_id = posted(api, defaults={"prompt": PROMPT}, manifest=f"s3://{domain.bucket.name}/{key}")["id"]
    domain.bucket.put(domain.bucket.name, key, b"changed", media_type="text/csv")
    assert batch_harness.read(batch_id).counts.queued == 2


def test_an_inline_picture_of_an_item_is_stored_in_the_bucket(api: Api, batch_harness: BatchHarness) -> None:
    image = f"data:image/png;base64,{b64encode(CHELSEA).decode()}"
    bad = "data:image/png;base64,aGVsbG8="
    batch_id = posted(
        api, defaults={"prompt": PROMPT}, items=[{"custom_id": "A", "image": image}, {"custom_id": "B", "image": bad}]
    )["id"]
    batch = batch_harness.read(batch_id)
    assert (batch.counts.queued, batch.counts.rejected) == (1, 1)
    job = batch_harness.job(batch_id, 1)
    assert job.input.image.startswith("s3://")
    assert (job.input.bytes, job.input.width) == (len(CHELSEA), 451)
