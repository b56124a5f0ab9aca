"""The simulator's dialects of OpenAI and of compatible servers, and its command."""

import base64
import subprocess
import sys
from typing import Any

import openai
import pytest
from httpx import Client

from tests.support.simulator_calls import SMALL, STEP, edit, only, opened, simulator
from tests.support.waiting import eventually


def test_openai_returns_pictures_and_usage(sim: Client) -> None:
    response = edit(sim, model="gpt-image-1.5", n="2", size="64x40", output_format="webp", quality="low")
    body = response.json()
    assert {"created", "data", "usage"} <= set(body)
    assert [set(item) for item in body["data"]] == [{"b64_json"}] * 2
    assert opened(base64.b64decode(body["data"][0]["b64_json"])).size == (64, 40)
    assert body["usage"]["total_tokens"] == body["usage"]["input_tokens"] + body["usage"]["output_tokens"]
    assert response.headers["x-request-id"]
    assert edit(sim, model="gpt-image-1.5", files=[("image[]", ("a", SMALL))], prompt="y" * 32_000).status_code == 200


OPENAI_REFUSED: list[tuple[dict[str, Any], int, tuple[str, str | None, str | None]]] = [
    ({"prompt": "x" * 32_001}, 400, ("invalid_request_error", "string_above_max_length", "prompt")),
    ({"seed": "1"}, 400, ("invalid_request_error", "unknown_parameter", "seed")),
    ({"size": "wide"}, 400, ("invalid_request_error", None, "size")),
    ({"n": "11"}, 400, ("invalid_request_error", None, "n")),
    ({"background": "transparent", "output_format": "jpeg"}, 400,
     ("invalid_request_error", "invalid_value", "background")),
    ({"headers": {}}, 401, ("invalid_request_error", "invalid_api_key", None)),
    ({"model": "gpt-image-99"}, 404, ("invalid_request_error", "model_not_found", "model")),
    ({"prompt": "[sim:filtered]"}, 400, ("image_generation_user_error", "moderation_blocked", None)),
    ({"prompt": "[sim:censored]"}, 400, ("image_generation_user_error", "moderation_blocked", None)),
    ({"prompt": "[sim:fail=402]"}, 429, ("insufficient_quota", "insufficient_quota", None)),
    ({"prompt": "[sim:429rpm]"}, 429, ("requests", "rate_limit_exceeded", None)),
    ({"prompt": "[sim:fail=500]"}, 500, ("server_error", None, None)),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "status", "expected"), OPENAI_REFUSED)
def test_openai_errors_have_code_and_param(
    sim: Client, fields: dict[str, Any], status: int, expected: tuple[str, str | None, str | None]
) -> None:
    response = edit(sim, **{"model": "gpt-image-1.5", **fields})
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert (error["type"], error["code"], error["param"]) == expected
    assert response.headers["x-request-id"]
    limited = error["code"] == "rate_limit_exceeded"
    assert ("Retry-After" in response.headers) == limited
    assert ("x-ratelimit-remaining-requests" in response.headers) == limited


def test_an_exhausted_openai_quota_is_a_429_with_its_own_code() -> None:
    with simulator(quota_exhausted=True) as client:
        response = edit(client, model="gpt-image-1.5")
        assert (response.status_code, response.json()["error"]["code"]) == (429, "insufficient_quota")


def test_vllm_accepts_its_own_parameters_and_is_repeatable(sim: Client) -> None:
    fields: dict[str, Any] = {"num_inference_steps": "20", "guidance_scale": "1", "true_cfg_scale": "4", "seed": "1"}
    first, second = (only(edit(sim, model="qwen-image-edit", **fields)) for _ in range(2))
    assert first == second
    assert opened(base64.b64decode(first["b64_json"])).size == (48, 32)
    assert edit(sim, model="qwen-image-edit", true_cfg_scale="much").json()["error"]["param"] == "true_cfg_scale"


def test_sglang_returns_a_relative_url(sim: Client) -> None:
    url = only(edit(sim, model="qwen-image-edit-sglang"))["url"]
    assert url.startswith("/")
    assert opened(sim.get(url).content).size == (48, 32)


def test_the_official_sdk_edits_an_image_in_both_dialects(sim: Client) -> None:
    client = openai.OpenAI(api_key="sim-key", base_url=f"{sim.base_url}/v1", max_retries=0)
    response = client.images.edit(model="gpt-image-1.5", image=("in.png", SMALL), prompt="make it blue")
    assert response.data
    assert opened(base64.b64decode(response.data[0].b64_json or "")).size == (48, 32)
    response = client.images.edit(model=STEP, image=("in.png", SMALL), prompt="make it blue")
    assert response.data
    assert sim.get(response.data[0].url or "").status_code == 200
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="other").images.edit(model=STEP, image=("in.png", SMALL), prompt="blue")


# --- the command


def test_the_command_takes_knobs_as_flags_and_stops_on_sigterm() -> None:
    command = [sys.executable, "-m", "infra.simulator", "--port", "0"]
    flags = ["--keys", "one,two", "--error-statuses", "504", "--error-rate", "1", "--fast"]
    with subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            address = process.stdout.readline().split()[-1]
            with Client(base_url=address) as client:
                eventually(lambda: client.get("/livez").status_code == 200)
                assert edit(client, headers={"Authorization": "Bearer two"}).status_code == 504
                assert client.get("/_sim/knobs").json()["fast"] is True
            port_in_use = subprocess.run(
                [*command[:-1], address.rpartition(":")[2]], capture_output=True, text=True, check=False
            )
            assert (port_in_use.returncode, port_in_use.stderr.count("\n")) == (1, 1)
        finally:
            process.terminate()
        assert process.wait(60) in {0, -15}
    invalid = subprocess.run([*command, "--error-rate", "2"], capture_output=True, text=True, check=False)
    assert invalid.returncode == 2
    assert "error_rate" in invalid.stderr
