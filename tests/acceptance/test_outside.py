"""Retouch as other programs see it: Flower's API, and the official OpenAI SDK on the compatible route."""

import base64
import sys
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Literal, cast

import httpx
import openai
import pytest
from PIL import Image

from infra.local.harness import KEY, MODEL, Process, api_process, environment_of
from infra.local.ports import Ports
from jobs.foundation.job_states import State
from tests.support.fleet import Fleet
from tests.support.photographs import photograph
from tests.support.waiting import eventually

USER, PASSWORD = "flower", "only-for-this-test"


@pytest.fixture
def flower(fleet: Fleet, tmp_path: Path) -> Iterator[httpx.Client]:
    """Flower on the fleet's broker; a client of its HTTP API."""
    port = Ports().choose("flower")
    environment = environment_of(fleet.domain.settings, FLOWER_BASIC_AUTH=f"{USER}:{PASSWORD}")
    command = [sys.executable, "-m", "retouch", "flower", "--port", str(port)]
    process = Process(command, tmp_path / "flower.log", environment)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", auth=(USER, PASSWORD), timeout=60) as client:

        def answers() -> bool:
            try:
                return client.get("/healthcheck").is_success
            except httpx.TransportError:
                return False

        try:
            process.wait_until(answers)
            yield client
        finally:
            process.close()


@pytest.fixture
def api(fleet: Fleet, tmp_path: Path) -> Iterator[str]:
    """A `retouch api` process; its origin."""
    port = Ports().choose("api")
    process = api_process(fleet.domain.settings, tmp_path / "api.log", port)

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=60).is_success
        except httpx.TransportError:
            return False

    try:
        process.wait_until(answers)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.close()


def test_flower_shows_success_retry_and_failure_under_the_job_ids(fleet: Fleet, flower: httpx.Client) -> None:
    worker = fleet.worker()
    eventually(
        lambda: worker.name in flower.get("/api/workers", params={"refresh": "1"}).text, what="Flower sees the worker"
    )
    image = fleet.put_picture(photograph("rocket.jpg").read_bytes(), "in/rocket.jpg")
    good = fleet.submit(image, "flower good")
    refused = fleet.submit(image, "[sim:fail=400] flower")
    filtered = fleet.submit(image, "[sim:censored] flower")
    again = fleet.submit(image, "[sim:429conc*1] flower")
    waits = fleet.submit(image, "[sim:fail=503*60] flower")
    for job_id, state in ((good, State.SUCCEEDED), (refused, State.FAILED), (filtered, State.FILTERED)):
        assert fleet.ended(job_id).state is state

    def shown(job_id: str) -> dict[str, object]:
        answer = flower.get(f"/api/task/info/{job_id}")
        return dict(answer.json()) if answer.is_success else {}

    for job_id, expected in ((good, "SUCCESS"), (refused, "FAILURE"), (filtered, "FAILURE")):
        eventually(partial(lambda i, t: shown(i).get("state") == t, job_id, expected), what=f"{job_id} is {expected}")
        task = shown(job_id)
        assert (task["name"], task["uuid"]) == ("edit", job_id)
    eventually(lambda: shown(waits).get("state") == "RETRY", what="a job that will be tried again is RETRY")
    assert fleet.ended(again).state is State.SUCCEEDED
    eventually(lambda: shown(again).get("state") == "SUCCESS", what="a retried job ends as SUCCESS")
    assert "RequestRefused" in str(shown(refused)["exception"])
    assert "503" in str(shown(waits)["exception"])


def test_flower_requires_its_password(flower: httpx.Client) -> None:
    for path in ("/", "/workers", "/api/workers", "/api/tasks"):
        assert httpx.get(f"{flower.base_url}{path}", timeout=60).status_code == 401


@pytest.mark.parametrize("form", ["url", "b64_json"])
def test_the_openai_sdk_gets_the_same_fields_from_retouch_as_from_the_endpoint(
    fleet: Fleet, api: str, form: str, tmp_path: Path
) -> None:
    fleet.worker()
    key = fleet.domain.api_keys.create("acme")
    picture = photograph("astronaut.png")
    answers = {}
    for name, origin, token in (("drop-in", api, key), ("endpoint", fleet.origin, KEY)):
        client = openai.OpenAI(base_url=f"{origin}/v1", api_key=token, max_retries=0)
        with picture.open("rb") as file:
            answers[name] = client.images.edit(
                model=MODEL,
                image=file,
                prompt=f"through the SDK as {form}",
                response_format=cast("Literal['url', 'b64_json']", form),
                extra_body={"seed": 7},
            )
    ours, theirs = answers["drop-in"], answers["endpoint"]
    assert shape(ours.model_dump(exclude_none=True)) == shape(theirs.model_dump(exclude_none=True))
    for answer in (ours, theirs):
        assert answer.data
        (image,) = answer.data
        data = base64.b64decode(image.b64_json) if image.b64_json else httpx.get(image.url or "", timeout=60).content
        assert Image.open(BytesIO(data)).size == Image.open(picture).size
    assert ours.data
    assert ours.data[0].model_dump()["seed"] == 7


def test_a_waiting_request_returns_the_url_of_the_edited_picture(fleet: Fleet, api: str) -> None:
    fleet.worker()
    key = fleet.domain.api_keys.create("acme")
    with photograph("chelsea.png").open("rb") as file:
        answer = httpx.post(
            f"{api}/v1/jobs",
            headers={"Authorization": f"Bearer {key}", "Prefer": "wait=100"},
            data={"prompt": "whole path", "custom_id": "sku-1"},
            files={"image": file},
            timeout=120,
        )
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert job["state"] == "succeeded"
    picture = Image.open(BytesIO(httpx.get(job["output"]["url"], timeout=60).content))
    assert picture.size == (job["input"]["width"], job["input"]["height"])


def shape(value: object) -> object:
    """Field names and types, without ids."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items() if name != "id"}
    if isinstance(value, list):
        return [shape(part) for part in value]
    return type(value).__name__
