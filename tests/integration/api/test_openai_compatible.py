"""The drop-in endpoint: StepFun's request and response format, for clients without knowledge of Retouch."""

import base64
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from structlog.testing import capture_logs

from api.routes import openai_compatible
from jobs.foundation.errors import (
    BadResult,
    DeadlineExceeded,
    EditFailure,
    Filtered,
    InputRejected,
    OutcomeUnknown,
    RequestRefused,
    WorkerLost,
)
from jobs.foundation.job_states import State
from jobs.plan.settlement import Settlement
from jobs.wiring import Domain
from tests.support.api_server import CHELSEA, FILE, PROMPT, ROCKET, Api, api_of
from tests.support.waiting import eventually

PATH = "/v1/images/edits"


def edit(api: Api, files: Any = FILE, **fields: Any) -> httpx.Response:
    return api.http.post(PATH, data={"model": "step-image-edit-2", "prompt": PROMPT, **fields}, files=files)


def meanwhile(api: Api, call: Callable[[], Any], act: Callable[[str], object]) -> tuple[Any, str]:
    """The result of `call`, while `act` handles its job; and the job's id."""
    with ThreadPoolExecutor(1) as pool:
        answer: Future[Any] = pool.submit(call)
        eventually(lambda: answer.done() or api.domain.job_reader.page(api.tenant).data)
        assert not answer.done(), answer.result().text
        job_id = api.domain.job_reader.page(api.tenant).data[0].id
        act(job_id)
        return answer.result(30), job_id


def client_of(api: Api) -> openai.OpenAI:
    key = api.http.headers["authorization"].removeprefix("Bearer ")
    return openai.OpenAI(base_url=f"{api.http.base_url}/v1", api_key=key, timeout=60)


def test_the_response_has_the_provider_format_and_a_url_of_the_bucket(api: Api):
    answer, job_id = meanwhile(api, lambda: edit(api, seed="7", steps="8", text_mode="false"), api.succeed)
    assert answer.status_code == 200
    assert answer.headers["x-retouch-job"] == job_id
    assert answer.headers["x-trace-id"] == "trace-1"
    body = answer.json()
    assert set(body) == {"created", "data"}
    assert isinstance(body["created"], int)
    (result,) = body["data"]
    assert {**result, "url": None} == {"seed": 7, "finish_reason": "success", "url": None}
    assert httpx.get(result["url"]).content == CHELSEA
    job = api.domain.job_reader.get(api.tenant, job_id)
    assert (job.priority, job.seed, job.steps, job.text_mode) == ("high", 7, 8, False)


def test_the_response_contains_the_bytes_if_the_client_wants_them(api: Api):
    answer, _ = meanwhile(api, lambda: edit(api, response_format="b64_json"), api.succeed)
    assert base64.b64decode(answer.json()["data"][0]["b64_json"]) == CHELSEA


def test_the_openai_client_edits_a_picture(api: Api):
    def call() -> openai.types.ImagesResponse:
        return client_of(api).images.edit(
            model="step-image-edit-2",
            image=("rocket.jpg", ROCKET),
            prompt=PROMPT,
            n=1,
            size="1024x1024",
            quality="auto",
            user="user-1",
            response_format="b64_json",
            extra_body={"seed": 7, "cfg_scale": 2.5},
        )

    answer, job_id = meanwhile(api, call, api.succeed)
    assert base64.b64decode(answer.data[0].b64_json) == CHELSEA
    job = api.domain.job_reader.get(api.tenant, job_id)
    assert (job.seed, job.cfg_scale) == (7, 2.5)


def test_the_openai_client_may_send_its_picture_as_a_list(api: Api):
    call = lambda: client_of(api).images.edit(image=[("rocket.jpg", ROCKET)], prompt=PROMPT)  # noqa: E731
    answer, _ = meanwhile(api, call, api.succeed)
    assert httpx.get(answer.data[0].url).content == CHELSEA


def test_the_openai_client_does_not_retry_a_failed_edit(api: Api):
    def fail(job_id: str) -> None:
        api.settle(job_id, Settlement.failed(BadResult("no picture came")))

    def call() -> Exception:
        with pytest.raises(openai.InternalServerError) as raised:
            client_of(api).images.edit(image=("rocket.jpg", ROCKET), prompt=PROMPT)
        return raised.value

    error, job_id = meanwhile(api, call, fail)
    assert error.status_code == 503
    assert job_id in error.message
    assert len(api.domain.job_reader.page(api.tenant).data) == 1


def test_an_openai_model_accepts_openai_fields_and_returns_bytes(make_settings: Callable[..., Any], tmp_path: Path):
    config = tmp_path / "retouch.toml"
    config.write_text('[models.gpt-image-x]\ndialect = "openai"\n')
    domain = Domain.open(make_settings(config=config))
    domain.planner.register_models()
    try:
        with api_of(domain) as api:
            fields = {"model": "gpt-image-x", "quality": "high", "output_format": "webp", "size": "auto"}
            answer, job_id = meanwhile(api, lambda: edit(api, **fields), api.succeed)
            assert base64.b64decode(answer.json()["data"][0]["b64_json"]) == CHELSEA
            job = api.domain.job_reader.get(api.tenant, job_id)
            assert (job.quality, job.output_format, job.size, job.seed) == ("high", "webp", "auto", None)
            assert "seed" in edit(api, model="gpt-image-x", seed="7").json()["error"]["message"]
    finally:
        domain.close()


def test_a_filtered_result_is_a_success_without_a_picture(api: Api):
    def withheld(job_id: str) -> None:
        api.settle(job_id, Settlement.filtered(Filtered("the filter stopped it", provider_status=200)))

    answer, _ = meanwhile(api, lambda: edit(api, seed="7"), withheld)
    assert answer.status_code == 200
    assert answer.json()["data"] == [{"seed": 7, "finish_reason": "content_filtered"}]


def test_a_refused_edit_is_a_451(api: Api):
    def refused(job_id: str) -> None:
        api.settle(job_id, Settlement.filtered(Filtered("not this", provider_status=451, trace_id="trace-2")))

    answer, _ = meanwhile(api, lambda: edit(api), refused)
    assert answer.status_code == 451
    assert answer.json()["error"]["type"] == "censorship_blocked"
    assert answer.headers["x-trace-id"] == "trace-2"


@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        (InputRejected("too small"), 400, "request_params_invalid"),
        (RequestRefused("no such size"), 400, "request_params_invalid"),
        (OutcomeUnknown("no answer came"), 504, "timeout"),
        (DeadlineExceeded("too late"), 504, "timeout"),
        (BadResult("no picture came"), 503, "service_unavailable"),
        (WorkerLost("three workers died"), 500, "internal_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_failed_job_is_an_error_in_the_provider_format(api: Api, failure: EditFailure, status: int, kind: str):
    answer, job_id = meanwhile(api, lambda: edit(api), lambda job: api.settle(job, Settlement.failed(failure)))
    assert answer.status_code == status
    assert answer.json() == {"error": {"message": f"job {job_id}: {failure.message}", "type": kind}}
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-retouch-job"] == job_id


def test_a_canceled_job_is_a_409(api: Api):
    answer, _ = meanwhile(api, lambda: edit(api), api.domain.planner.cancel)
    assert answer.status_code == 409
    assert answer.json()["error"]["type"] == "canceled"


def test_a_timed_out_wait_names_the_job_which_continues(api: Api, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(openai_compatible, "MAX_WAIT_S", 0.3)
    answer = edit(api)
    assert answer.status_code == 504
    assert answer.json()["error"]["type"] == "timeout"
    job_id = answer.headers["x-retouch-job"]
    assert job_id in answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert api.state(job_id) is State.QUEUED


def leave(api: Api, act: Callable[[str], Any]) -> str:
    """Disconnect a client while its job waits, after `act` has handled the job. Returns the job's id."""
    request = api.http.build_request("POST", PATH, data={"prompt": PROMPT}, files=FILE)
    connection = HTTPConnection(request.url.host, request.url.port or 80)
    connection.request("POST", PATH, body=request.read(), headers=dict(request.headers))
    job_id = str(eventually(lambda: api.domain.job_reader.page(api.tenant).data)[0].id)
    act(job_id)
    connection.close()
    return job_id


def test_a_disconnect_cancels_a_job_that_does_not_run(api: Api):
    job_id = leave(api, lambda _: None)
    eventually(lambda: api.state(job_id) is State.CANCELED)


def test_a_disconnect_does_not_cancel_a_running_job(api: Api):
    with capture_logs() as lines:
        job_id = leave(api, api.claim)
        eventually(lambda: any(line.get("status") == 499 for line in lines))
    assert api.state(job_id) is State.RUNNING


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x" * 513}, "prompt"),
        ({"model": "gpt-image-1"}, "model"),
        ({"seed": "-1"}, "seed"),
        ({"seed": "seven"}, "seed"),
        ({"steps": "51"}, "steps"),
        ({"cfg_scale": "0.5"}, "cfg_scale"),
        ({"text_mode": "maybe"}, "text_mode"),
        ({"response_format": "png"}, "response_format"),
        ({"n": "2"}, "n"),
        ({"stream": "true"}, "stream"),
        ({"quality": "high"}, "quality"),
        ({"mystery": "1"}, "mystery"),
        ({"priority": "low"}, "priority"),
        ({"seed": ["1", "2"]}, "seed"),
    ],
)
def test_an_invalid_field_is_a_400_that_names_it(api: Api, fields: dict[str, Any], named: str):
    answer = edit(api, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "request_params_invalid"
    assert named in answer.json()["error"]["message"]
    assert api.objects() == []


@pytest.mark.parametrize(
    "files",
    [
        {"picture": ("rocket.jpg", ROCKET)},
        {"image": ("rocket.jpg", ROCKET), "mask": ("mask.png", CHELSEA)},
        [("image[]", ("a.jpg", ROCKET)), ("image[]", ("b.jpg", ROCKET))],
        {"user": (None, "somebody")},
    ],
    ids=["another name", "a mask", "two pictures", "no picture"],
)
def test_exactly_one_picture_is_required(api: Api, files: Any):
    answer = edit(api, files=files)
    assert answer.status_code == 400
    assert api.objects() == []


def test_an_unknown_key_or_media_type_is_an_error_in_the_provider_format(api: Api):
    answer = api.http.post(PATH, data={"prompt": PROMPT}, files=FILE, headers={"Authorization": "Bearer no"})
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "invalid_api_key"
    answer = api.http.post(PATH, json={"prompt": PROMPT})
    assert answer.status_code == 415
    assert answer.json()["error"]["type"] == "request_params_invalid"
    assert api.http.get(PATH).status_code == 405


def test_the_same_idempotency_key_pays_for_one_edit(api: Api):
    def call() -> httpx.Response:
        headers = {"Idempotency-Key": "one"}
        return api.http.post(PATH, data={"prompt": PROMPT}, files=FILE, headers=headers)

    first, job_id = meanwhile(api, call, api.succeed)
    again = call()
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-retouch-job"] == first.headers["x-retouch-job"] == job_id
    assert len(api.objects()) == 1
