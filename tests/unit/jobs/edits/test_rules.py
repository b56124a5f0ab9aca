"""One list of rules checks single jobs, rows and a batch's defaults."""

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from jobs.batches.manifests.reader import Row
from jobs.batches.models import Reject
from jobs.batches.row_to_job import Item, RowReader
from jobs.catalogue.catalogue import load_catalogue
from jobs.edits.rules import JobRules, draw_seed, idempotency_digest
from jobs.edits.uploads import UploadedPictures
from jobs.foundation.errors import InvalidInput, TooLarge
from jobs.foundation.ids import batch_job_id, new_batch_id
from jobs.foundation.settings import Settings
from jobs.records.job_models import JobRequest
from jobs.storage.bucket import Bucket

GOOD = {"prompt": "On a white background", "image": "https://pictures.example/rocket.jpg"}
BATCH = new_batch_id()
JOB = batch_job_id(BATCH, 1)
CATALOGUE = load_catalogue()


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> UploadedPictures:
    """Nothing listens where its bucket is: a rule that wrote an object would fail."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unused")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "unused")
    settings = Settings(s3_endpoint_url="http://127.0.0.1:9", max_upload_bytes=100_000)
    return UploadedPictures(Bucket(settings), settings)


@pytest.fixture
def rules(pictures: UploadedPictures) -> JobRules:
    return JobRules(CATALOGUE, Settings(max_upload_bytes=100_000), pictures)


def png(width: int, height: int) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (width, height), "grey").save(held, "PNG")
    return held.getvalue()


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


BAD: list[tuple[dict[str, Any], set[str]]] = [
    ({"model": "gpt-image-1"}, {"model"}),
    ({"model": "gpt-image-1", "image": "rocket.jpg"}, {"model", "image"}),
    ({"prompt": " ", "seed": -1, "quality": "high"}, {"prompt", "seed", "quality"}),
    ({"deadline_s": 60, "not_before": "2100-01-01T00:00:00Z"}, {"deadline_s"}),
    ({"output_key": "retouch/globex/{job_id}.png"}, {"output_key"}),
    ({"output_key": "s3://elsewhere/{job_id}.png", "webhook_url": "https://10.0.0.1/hook"},
     {"output_key", "webhook_url"}),
    ({"image": None}, {"image"}),
    ({"image": "s3://elsewhere/rocket.jpg"}, {"image"}),
    ({"image": "s3://retouch/retouch/globex/inputs/x.png"}, {"image"}),
    ({"image": "https://169.254.169.254/latest", "steps": 0}, {"image", "steps"}),
    ({"image": data_url(b"not a picture"), "steps": 0}, {"image", "steps"}),
    ({"image": data_url(png(5000, 8)), "prompt": None}, {"image", "prompt"}),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "refused_fields"), BAD)
def test_a_job_and_a_row_report_the_same_faults_all_at_once(
    rules: JobRules, pictures: UploadedPictures, changes: dict[str, Any], refused_fields: set[str]
) -> None:
    values = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    with pytest.raises(InvalidInput) as refused:
        rules.check(JobRequest.model_validate(values), tenant="acme", job_id=JOB)
    row = RowReader(rules, pictures, tenant="acme", batch_id=BATCH, defaults={}).read(Row(1, 1, values))
    assert {fault.field for fault in refused.value.errors} == refused_fields
    assert isinstance(row, Reject)
    assert row.errors == [
        {"field": fault.field, "message": fault.message, "code": fault.code} for fault in refused.value.errors
    ]


def test_a_row_that_satisfies_every_rule_becomes_an_item(rules: JobRules, pictures: UploadedPictures) -> None:
    read = RowReader(rules, pictures, tenant="acme", batch_id=BATCH, defaults={"prompt": GOOD["prompt"]})
    item = read.read(Row(1, 1, GOOD))
    assert isinstance(item, Item)
    spec = json.loads(item.fields[1])
    assert spec.keys() == {"image", "seed"}
    assert 0 <= spec["seed"] <= 2147483647


def test_an_uploaded_picture_has_its_bytes_and_key_for_the_bucket(rules: JobRules) -> None:
    checked = rules.check(JobRequest(prompt="p"), tenant="acme", job_id=JOB, upload=png(64, 48))
    assert checked.uploaded is not None
    assert checked.uploaded.input.image == f"s3://retouch/retouch/acme/inputs/{JOB}.png"
    assert (checked.uploaded.input.width, checked.uploaded.input.height) == (64, 48)


def test_a_file_and_an_address_together_are_refused(rules: JobRules) -> None:
    with pytest.raises(InvalidInput) as refused:
        rules.check(JobRequest.model_validate(GOOD), tenant="acme", job_id=JOB, upload=png(64, 48))
    assert [(fault.field, fault.code) for fault in refused.value.errors] == [("image", "repeated")]


@pytest.mark.parametrize("form", ["file", "data URL"])
def test_a_picture_over_the_limit_is_too_large_in_every_form(rules: JobRules, form: str) -> None:
    data = bytes(101_000)
    image, upload = (None, data) if form == "file" else (data_url(data), None)
    with pytest.raises(TooLarge):
        rules.check(JobRequest(prompt="p", image=image), tenant="acme", job_id=JOB, upload=upload)


def test_a_seed_is_drawn_only_for_models_with_that_parameter() -> None:
    drawn = {draw_seed(CATALOGUE.get("step-image-edit-2")) for _ in range(20)}
    assert len(drawn) > 1
    without = CATALOGUE.get("step-image-edit-2").model_copy(update={"parameters": {}})
    assert draw_seed(without) is None


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "ключ"])
def test_an_invalid_idempotency_key_is_refused_by_name(key: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        idempotency_digest(key)
    assert [fault.field for fault in refused.value.errors] == ["Idempotency-Key"]


def test_a_request_without_an_idempotency_key_has_no_digest() -> None:
    assert idempotency_digest(None) is None
    assert idempotency_digest("order-7") != idempotency_digest("order-8")
