"""The Python client, over loopback HTTP."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retouch.client import Client
from retouch.errors import BadAnswer, Damaged, NoOutput, ProblemError, Unreachable, WaitTimeout
from retouch.transport import Patience
from tests.support.fake_api import KEY, RESULT, ContractService

QUICK = Patience(tries=4, first_s=0.01, longest_s=2)


@pytest.fixture
def service() -> Iterator[ContractService]:
    with ContractService() as running:
        yield running


@pytest.fixture
def client(service: ContractService) -> Iterator[Client]:
    with Client(service.url, KEY, patience=QUICK) as opened:
        yield opened


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "mug.png"
    path.write_bytes(b"\x89PNG a picture")
    return path


def test_a_file_is_sent_as_a_form_with_its_fields(service: ContractService, client: Client, picture: Path) -> None:
    job = client.submit(picture, prompt="on marble", custom_id="SKU-1", metadata={"season": "é"}, seed=7, model=None)
    sent = service.jobs[job.id]["sent"]
    assert sent == {"prompt": "on marble", "custom_id": "SKU-1", "metadata": {"season": "é"}, "seed": 7}
    assert job.state == "queued"
    assert not job.final
    assert service.requests[-1][2]["Content-Type"].startswith("multipart/form-data")


def test_a_url_is_sent_as_json(service: ContractService, client: Client) -> None:
    job = client.submit("https://example.com/mug.png", prompt="on marble", text_mode=True)
    assert service.jobs[job.id]["sent"]["text_mode"] is True
    assert service.requests[-1][2]["Content-Type"] == "application/json"


def test_bytes_can_be_submitted(service: ContractService, client: Client) -> None:
    assert client.submit(b"\x89PNG", prompt="p").id in service.jobs


@pytest.mark.parametrize(
    "fault",
    ["drop", "drop after", (503, {}, {"title": "Unavailable"}), (502, {}, b"<html>"), (429, {"Retry-After": "0"}, {})],
    ids=str,
)
def test_a_retried_submit_creates_one_job(service: ContractService, client: Client, picture: Path, fault: Any) -> None:
    service.faults.append(fault)
    job = client.submit(picture, prompt="on marble")
    assert list(service.jobs) == [job.id]
    keys = {headers["Idempotency-Key"] for _, _, headers in service.requests}
    assert len(service.requests) == 2
    assert len(keys) == 1


def test_two_submits_create_two_jobs(client: Client, picture: Path) -> None:
    assert client.submit(picture, prompt="p").id != client.submit(picture, prompt="p").id


def test_submits_with_the_same_idempotency_key_create_one_job(client: Client, picture: Path) -> None:
    first, second = (client.submit(picture, prompt="p", idempotency_key="order-1") for _ in range(2))
    assert first.id == second.id


def test_a_429_without_retry_after_is_raised_at_once(service: ContractService, client: Client) -> None:
    service.faults.append((429, {}, {"title": "Quota exceeded", "status": 429, "detail": "no more today"}))
    with pytest.raises(ProblemError, match="no more today") as caught:
        client.submit("s3://b/k", prompt="p")
    assert caught.value.status == 429
    assert len(service.requests) == 1


def test_a_retry_after_over_the_limit_is_raised_at_once(service: ContractService, client: Client) -> None:
    service.faults.append((429, {"Retry-After": "3600"}, {"title": "Quota exceeded", "detail": "quota used up"}))
    with pytest.raises(ProblemError) as caught:
        client.job("job_1")
    assert caught.value.retry_after_s == 3600


def test_a_problem_lists_the_invalid_fields(client: Client) -> None:
    with pytest.raises(ProblemError) as caught:
        client.submit("s3://b/k", prompt="")
    problem = caught.value
    assert (problem.status, problem.title) == (422, "Invalid input")
    assert [(e.field, e.code) for e in problem.errors] == [("prompt", "missing")]
    assert str(problem) == "the request breaks a rule; prompt: required: describe the edit"


def test_a_wrong_key_is_a_problem(service: ContractService) -> None:
    with Client(service.url, "wrong") as client, pytest.raises(ProblemError, match="no API key") as caught:
        client.models()
    assert caught.value.status == 401


def test_a_closed_port_is_unreachable() -> None:
    with ContractService() as stopped:
        url = stopped.url
    with Client(url, KEY, patience=QUICK) as client, pytest.raises(Unreachable, match="connection refused"):
        client.job("job_1")


def test_an_answer_of_another_program_is_a_bad_answer(service: ContractService, client: Client) -> None:
    service.faults.append((200, {"Content-Type": "text/html"}, b"<html>hello</html>"))
    with pytest.raises(BadAnswer, match="did not answer with a JSON object"):
        client.job("job_1")
    service.faults.append((404, {"Content-Type": "text/html"}, b"<html>not here</html>"))
    with pytest.raises(BadAnswer, match="RETOUCH_URL"):
        client.job("job_1")
    service.faults.append((200, {}, {"id": "job_1"}))
    with pytest.raises(BadAnswer, match="invalid job"):
        client.job("job_1")


def test_an_action_with_a_lost_answer_is_not_sent_again(service: ContractService, client: Client) -> None:
    job = service.add()
    service.faults.append("drop after")
    with pytest.raises(Unreachable):
        client.cancel(job["id"])
    assert len(service.requests) == 1
    assert service.jobs[job["id"]]["state"] == "canceled"


def test_cancel_and_retry_are_refused_in_a_wrong_state(service: ContractService, client: Client) -> None:
    job = service.add()
    assert client.cancel(job["id"]).state == "canceled"
    with pytest.raises(ProblemError) as caught:
        client.cancel(job["id"])
    assert caught.value.status == 409
    assert client.retry(job["id"]).state == "queued"


def test_wait_returns_when_the_job_ends(service: ContractService, client: Client) -> None:
    job = service.add()
    service.advance_on_reads(job, "queued", "running", "filtered")
    ended = client.wait(job["id"], timeout=30)
    assert ended.state == "filtered"
    assert ended.error is not None
    assert ended.error.code == "content_filtered"


def test_a_wait_timeout_has_the_last_known_job(service: ContractService, client: Client) -> None:
    job = service.add("running")
    with pytest.raises(WaitTimeout) as caught:
        client.wait(job["id"], timeout=0.2)
    assert caught.value.job.state == "running"


def test_a_submit_can_wait_for_the_result(service: ContractService, client: Client) -> None:
    job = client.submit("s3://b/k", prompt="p", wait=5)
    assert job.state == "succeeded"
    assert service.requests[-1][2]["Prefer"] == "wait=5"


def test_jobs_are_listed_over_pages(service: ContractService, client: Client) -> None:
    job_ids = [service.add(custom_id=f"c{number % 2}")["id"] for number in range(8)]
    assert [job.id for job in client.jobs()] == job_ids[::-1]
    assert [job.id for job in client.jobs(limit=4)] == job_ids[:-5:-1]
    assert len(list(client.jobs(custom_id="c1"))) == 4
    assert list(client.jobs(state="failed")) == []


def test_the_api_key_is_not_sent_to_the_store(service: ContractService, client: Client) -> None:
    job = service.add("succeeded")
    assert client.output(job["id"]) == RESULT
    _, path, headers = service.requests[-1]
    assert path.startswith("/stored/")
    assert "Authorization" not in headers


def test_a_failed_download_leaves_the_file_unchanged(service: ContractService, client: Client, tmp_path: Path) -> None:
    job = service.add("succeeded")
    path = tmp_path / "result.png"
    assert client.download(job["id"], path) == path
    assert hashlib.sha256(path.read_bytes()).hexdigest() == job["output"]["sha256"]
    service.stored = b"something else"
    with pytest.raises(Damaged):
        client.download(job["id"], path)
    assert path.read_bytes() == RESULT
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_request_to_the_store_is_retried(service: ContractService, client: Client) -> None:
    job = client.job(service.add("succeeded")["id"])
    service.faults.extend([(500, {}, {}), "drop"])
    assert job.output is not None
    assert b"".join(client._output(job)) == RESULT


def test_a_download_of_a_failed_job_raises_no_output(service: ContractService, client: Client, tmp_path: Path) -> None:
    job = service.add("failed")
    with pytest.raises(NoOutput, match="failed"):
        client.download(job["id"], tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_an_upload_returns_the_url_to_submit(service: ContractService, client: Client, picture: Path) -> None:
    assert client.upload(picture) == "s3://retouch/up"
    assert service.uploads == {"/stored/up": picture.read_bytes()}
    assert service.requests[-1][2]["Content-Type"] == "image/png"
    assert "Authorization" not in service.requests[-1][2]


def test_unknown_fields_of_a_newer_service_are_preserved(client: Client) -> None:
    (model,) = client.models()
    assert (model.parked, model.pace_rpm, model.limits.concurrency) == (True, 90.5, 5)
    assert model.model_dump()["later"] == 1
