"""The simulator follows the documented contract of the StepFun endpoint."""

import base64
import hashlib
import io
import time
from typing import Any

import httpx
import numpy as np
import pytest
from httpx import Client
from PIL import Image

from tests.support.simulator_calls import DATA, KEY, SMALL, STEP, edit, fetch, only, opened, picture, simulator
from tests.support.waiting import eventually


def test_a_success_has_the_documented_shape(sim: Client) -> None:
    response = edit(sim, seed="7")
    body = response.json()
    assert set(body) == {"id", "created", "data"}
    assert abs(body["created"] - time.time()) < 60
    assert only(response) == {"seed": 7, "finish_reason": "success", "url": only(response)["url"]}
    assert response.headers["X-Trace-Id"]
    result = fetch(sim, response)
    assert result.headers["content-type"] == "image/png"
    assert opened(result.content).size == (48, 32)


def test_b64_json_returns_the_picture_itself(sim: Client) -> None:
    item = only(edit(sim, seed="7", response_format="b64_json"))
    assert set(item) == {"seed", "finish_reason", "b64_json"}
    assert base64.b64decode(item["b64_json"]) == fetch(sim, edit(sim, seed="7")).content


def test_the_server_chooses_and_returns_a_missing_seed(sim: Client) -> None:
    first, second = only(edit(sim))["seed"], only(edit(sim))["seed"]
    assert first != second
    assert all(0 <= seed <= 2_147_483_647 for seed in (first, second))


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "x" * 512},
        {"prompt": "\u84dd" * 512},
        {"negative_prompt": "x" * 512},
        {"seed": "0"},
        {"seed": "2147483647"},
        {"steps": "1"},
        {"steps": "50"},
        {"cfg_scale": "1"},
        {"cfg_scale": "10.0"},
        {"text_mode": "true"},
        {"text_mode": "false"},
        {"response_format": "url"},
        {"size": "anything"},
        {"image": picture(kind="JPEG")},
        {"image": picture(kind="WEBP")},
        {"image": picture(4096, 1)},
        {"image": picture(1, 4096)},
        {"image": picture(1, 1)},
    ],
)
def test_documented_values_are_accepted(sim: Client, fields: dict[str, Any]) -> None:
    assert only(edit(sim, **fields))["finish_reason"] == "success"


REFUSED = [
    ({"model": None}, 400, "request_params_invalid", "model"),
    ({"model": "step-9"}, 404, "model_not_found", "step-9"),
    ({"prompt": None}, 400, "request_params_invalid", "prompt"),
    ({"prompt": "  "}, 400, "request_params_invalid", "prompt"),
    ({"prompt": "x" * 513}, 400, "request_params_invalid", "512"),
    ({"prompt": "[sim:typo]"}, 400, "request_params_invalid", "directive"),
    ({"negative_prompt": "x" * 513}, 400, "request_params_invalid", "negative_prompt"),
    ({"seed": "-1"}, 400, "request_params_invalid", "seed"),
    ({"seed": "2147483648"}, 400, "request_params_invalid", "seed"),
    ({"seed": "1.5"}, 400, "request_params_invalid", "seed"),
    ({"seed": ""}, 400, "request_params_invalid", "seed"),
    ({"steps": "0"}, 400, "request_params_invalid", "steps"),
    ({"steps": "51"}, 400, "request_params_invalid", "steps"),
    ({"cfg_scale": "0.9"}, 400, "request_params_invalid", "cfg_scale"),
    ({"cfg_scale": "10.1"}, 400, "request_params_invalid", "cfg_scale"),
    ({"cfg_scale": "nan"}, 400, "request_params_invalid", "cfg_scale"),
    ({"cfg_scale": "high"}, 400, "request_params_invalid", "cfg_scale"),
    ({"text_mode": "True"}, 400, "request_params_invalid", "text_mode"),
    ({"text_mode": "1"}, 400, "request_params_invalid", "text_mode"),
    ({"response_format": "png"}, 400, "request_params_invalid", "response_format"),
    ({"files": [("image", ("a", SMALL)), ("image", ("b", SMALL))]}, 400, "request_params_invalid", "image"),
    ({"files": [("image[]", ("a", SMALL))]}, 400, "request_params_invalid", "image"),
    ({"files": [("prompt", ("a", SMALL)), ("image", ("a", SMALL))], "prompt": None}, 400, "request_params_invalid", ""),
    ({"image": b"not a picture"}, 400, "request_params_invalid", "image"),
    ({"image": b""}, 400, "request_params_invalid", "image"),
    ({"image": picture(kind="GIF")}, 400, "request_params_invalid", "image"),
    ({"image": SMALL[:-30]}, 400, "request_params_invalid", "decode"),
    ({"image": picture(4097, 1)}, 400, "request_params_invalid", "4096"),
    ({"image": picture(1, 4097)}, 400, "request_params_invalid", "4096"),
    ({"headers": {}}, 401, "invalid_api_key", ""),
    ({"headers": {"Authorization": "Bearer other"}}, 401, "invalid_api_key", ""),
    ({"headers": {"Authorization": "Basic sim-key"}}, 401, "invalid_api_key", ""),
    ({"prompt": "[sim:fail=402]"}, 402, "quota_exceeded", ""),
    ({"prompt": "[sim:429rpm]"}, 429, "rate_limited", "request limited RPM reached, current: 11, limit: 10"),
    ({"prompt": "[sim:429conc]"}, 429, "rate_limited", "concurrency reached, current: 11, limit: 10"),
    ({"prompt": "[sim:censored]"}, 451, "censorship_blocked", ""),
    ({"prompt": "[sim:fail=500]"}, 500, "server_error", ""),
    ({"prompt": "[sim:fail=503]"}, 503, "service_unavailable", ""),
    ({"prompt": "[sim:fail=504]"}, 504, "gateway_timeout", ""),
]


@pytest.mark.parametrize(("fields", "status", "kind", "message_part"), REFUSED)
def test_each_error_has_the_documented_status_and_type(
    sim: Client, fields: dict[str, Any], status: int, kind: str, message_part: str
) -> None:
    response = edit(sim, **fields)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type"}
    assert error["type"] == kind
    assert message_part in error["message"]
    assert response.headers["X-Trace-Id"]
    assert "Retry-After" not in response.headers


def test_a_body_that_is_not_a_multipart_form_is_refused(sim: Client) -> None:
    response = sim.post("/v1/images/edits", json={"model": STEP}, headers=KEY)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "request_params_invalid")
    broken = sim.post(
        "/v1/images/edits", content=b"--x\r\n", headers=KEY | {"content-type": "multipart/form-data; boundary=y"}
    )
    assert (broken.status_code, broken.json()["error"]["type"]) == (400, "request_params_invalid")


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/images/edit"), ("GET", "/v1/images/edits"), ("GET", "/")])
def test_a_wrong_path_is_answered_with_plain_text(sim: Client, method: str, path: str) -> None:
    response = sim.request(method, path)
    assert (response.status_code, response.text) == (404, "404 page not found")
    assert response.headers["content-type"].startswith("text/plain")


def test_equal_requests_give_equal_bytes_and_different_requests_do_not(sim: Client) -> None:
    def sha(**fields: Any) -> str:
        return hashlib.sha256(fetch(sim, edit(sim, **({"seed": "5", "steps": "8", **fields}))).content).hexdigest()

    assert sha() == sha()
    others: list[dict[str, Any]] = [
        {"seed": "6"},
        {"steps": "9"},
        {"cfg_scale": "3"},
        {"prompt": "another"},
        {"image": picture(colour="blue")},
    ]
    assert sha() not in {sha(**other) for other in others}


@pytest.mark.parametrize("name", ["astronaut.png", "coffee.png", "rocket.jpg"])
def test_a_photograph_is_edited_visibly_and_keeps_its_size(sim: Client, name: str) -> None:
    before = opened((DATA / name).read_bytes()).convert("RGB")
    after = opened(fetch(sim, edit(sim, image=(DATA / name).read_bytes(), seed="3")).content)
    assert after.size == before.size
    change = np.abs(np.asarray(after.convert("RGB"), int) - np.asarray(before, int)).max(axis=2)
    upper = change[: before.height * 4 // 5]
    assert (upper > 16).mean() > 0.5, "most pixels above the banner must change visibly"


def test_a_photograph_with_exif_orientation_keeps_its_stored_size(sim: Client) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    result = fetch(sim, edit(sim, image=picture(60, 20, "JPEG", exif=exif)))
    assert opened(result.content).size == (60, 20)


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("fast", [False, True])
def test_results_have_the_format_of_the_knob(output_format: str, fast: bool) -> None:
    with simulator(output_format=output_format, fast=fast) as client:
        result = fetch(client, edit(client))
        assert result.headers["content-type"] == f"image/{output_format}"
        assert (opened(result.content).format, opened(result.content).size) == (output_format.upper(), (48, 32))


def test_a_result_url_is_public_and_refuses_an_api_key(sim: Client) -> None:
    url = only(edit(sim, prompt="public [sim:ttl=600]"))["url"]
    assert sim.get(url, headers=KEY).status_code == 400
    assert sim.get(url).status_code == 200
    assert sim.get("/results/unknown.png").status_code == 404
    (result,) = [row for row in sim.get("/_sim/results").json()["data"] if url.endswith(row["name"])]
    assert (result["downloads"], result["refused"], result["kept"]) == (1, 1, True)


def test_a_result_expires(sim: Client) -> None:
    assert fetch(sim, edit(sim, prompt="[sim:ttl=0]")).status_code == 403
    url = only(edit(sim, prompt="[sim:ttl=0.3]"))["url"]
    eventually(lambda: sim.get(url).status_code == 403)


def test_the_memory_for_results_is_limited() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (600, 600, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG")
    with simulator(result_memory_mb=2) as client:
        urls = [only(edit(client, image=out.getvalue(), seed=str(n)))["url"] for n in range(4)]
        assert client.get(urls[0]).status_code == 403
        assert client.get(urls[-1]).status_code == 200


def test_directives_make_downloads_fail_and_end_early(sim: Client) -> None:
    response = edit(sim, prompt="[sim:download_fail*2] [sim:download_truncate*1]")
    assert [fetch(sim, response).status_code for _ in range(2)] == [503, 503]
    with pytest.raises(httpx.RemoteProtocolError):
        fetch(sim, response)
    assert fetch(sim, response).status_code == 200
