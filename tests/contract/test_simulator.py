"""The simulator keeps the documented contracts of the endpoints it stands in for, and errs exactly as told."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import hashlib
import io
import json
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import openai
import pytest
from httpx import Client, Response
from PIL import Image

from infra.simulator import Knobs
from infra.simulator.serving import serve_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SKIMAGE = find_spec("skimage")
assert SKIMAGE is not None
assert SKIMAGE.submodule_search_locations
DATA = Path(SKIMAGE.submodule_search_locations[0]) / "data"
KEY = {"Authorization": "Bearer sim-key"}
STEP = "step-image-edit-2"


@contextlib.contextmanager
def simulator(**knobs: Any) -> Iterator[Client]:
    """A simulator on a free port, and a client of it."""
    with serve_in_thread(Knobs(**knobs)) as url, Client(base_url=url, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def sim() -> Iterator[Client]:
    with simulator() as client:
        yield client


def until(holds: Callable[[], Any], deadline_s: float = 10.0) -> Any:
    end = time.monotonic() + deadline_s
    while not (value := holds()):
        assert time.monotonic() < end, "the awaited state did not come"
        time.sleep(0.01)
    return value


def picture(width: int = 48, height: int = 32, kind: str = "PNG", colour: str = "chocolate", **save: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, kind, **save)
    return out.getvalue()


SMALL = picture()


def edit(
    client: Client,
    image: bytes = SMALL,
    headers: Any = KEY,
    files: Any = None,
    timeout: float = 20,
    **fields: str | None,
) -> Response:
    fields = {"model": STEP, "prompt": "make it blue", **fields}
    data = {name: value for name, value in fields.items() if value is not None}
    files = [("image", ("in", image))] if files is None else files
    return client.post("/v1/images/edits", data=data, files=files, headers=headers, timeout=timeout)


def only(response: Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    item: dict[str, Any]
    (item,) = response.json()["data"]
    return item


def fetch(client: Client, response: Response) -> Response:
    return client.get(only(response)["url"])


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def calls(client: Client, prompt: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/_sim/calls", params={"prompt": prompt}).json()["data"]
    return found


# --- the stepfun contract


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


def test_the_picture_itself_is_answered_on_request(sim: Client) -> None:
    item = only(edit(sim, seed="7", response_format="b64_json"))
    assert set(item) == {"seed", "finish_reason", "b64_json"}
    assert base64.b64decode(item["b64_json"]) == fetch(sim, edit(sim, seed="7")).content


def test_an_absent_seed_is_chosen_and_returned(sim: Client) -> None:
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
def test_what_the_documentation_allows_is_accepted(sim: Client, fields: dict[str, Any]) -> None:
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
    ({"image": b"no picture"}, 400, "request_params_invalid", "image"),
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


@pytest.mark.parametrize(("fields", "status", "kind", "words"), REFUSED)
def test_every_documented_error_has_its_status_and_type(
    sim: Client, fields: dict[str, Any], status: int, kind: str, words: str
) -> None:
    response = edit(sim, **fields)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type"}
    assert error["type"] == kind
    assert words in error["message"]
    assert response.headers["X-Trace-Id"]
    assert "Retry-After" not in response.headers


def test_a_body_that_is_no_multipart_form_is_refused(sim: Client) -> None:
    response = sim.post("/v1/images/edits", json={"model": STEP}, headers=KEY)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "request_params_invalid")
    broken = sim.post(
        "/v1/images/edits", content=b"--x\r\n", headers=KEY | {"content-type": "multipart/form-data; boundary=y"}
    )
    assert (broken.status_code, broken.json()["error"]["type"]) == (400, "request_params_invalid")


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/images/edit"), ("GET", "/v1/images/edits"), ("GET", "/")])
def test_a_wrong_path_answers_plain_text(sim: Client, method: str, path: str) -> None:
    response = sim.request(method, path)
    assert (response.status_code, response.text) == (404, "404 page not found")
    assert response.headers["content-type"].startswith("text/plain")


def test_the_same_request_gives_the_same_bytes_and_another_does_not(sim: Client) -> None:
    def sha(**fields: Any) -> str:
        return hashlib.sha256(fetch(sim, edit(sim, **({"seed": "5", "steps": "8", **fields}))).content).hexdigest()

    assert sha() == sha()
    others: list[dict[str, Any]] = [
        {"seed": "6"},
        {"steps": "9"},
        {"cfg_scale": "3"},
        {"prompt": "else"},
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
    assert (upper > 16).mean() > 0.5, "above the banner most pixels change as an eye can see"


def test_an_oriented_photograph_keeps_its_stored_size(sim: Client) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    result = fetch(sim, edit(sim, image=picture(60, 20, "JPEG", exif=exif)))
    assert opened(result.content).size == (60, 20)


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("fast", [False, True])
def test_results_come_in_the_format_of_the_knob(output_format: str, fast: bool) -> None:
    with simulator(output_format=output_format, fast=fast) as client:
        result = fetch(client, edit(client))
        assert result.headers["content-type"] == f"image/{output_format}"
        assert (opened(result.content).format, opened(result.content).size) == (output_format.upper(), (48, 32))


# --- results


def test_a_result_is_public_and_refuses_the_key(sim: Client) -> None:
    url = only(edit(sim, prompt="public [sim:ttl=600]"))["url"]
    assert sim.get(url, headers=KEY).status_code == 400
    assert sim.get(url).status_code == 200
    assert sim.get("/results/unknown.png").status_code == 404
    (kept,) = [row for row in sim.get("/_sim/results").json()["data"] if url.endswith(row["name"])]
    assert (kept["downloads"], kept["refused"], kept["kept"]) == (1, 1, True)


def test_a_result_expires(sim: Client) -> None:
    assert fetch(sim, edit(sim, prompt="[sim:ttl=0]")).status_code == 403
    url = only(edit(sim, prompt="[sim:ttl=0.3]"))["url"]
    until(lambda: sim.get(url).status_code == 403)


def test_results_are_bounded_in_memory() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (600, 600, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG")
    with simulator(result_memory_mb=2) as client:
        urls = [only(edit(client, image=out.getvalue(), seed=str(n)))["url"] for n in range(4)]
        assert client.get(urls[0]).status_code == 403
        assert client.get(urls[-1]).status_code == 200


def test_downloads_fail_and_break_off_as_told(sim: Client) -> None:
    response = edit(sim, prompt="[sim:download_fail*2] [sim:download_truncate*1]")
    assert [fetch(sim, response).status_code for _ in range(2)] == [503, 503]
    with pytest.raises(httpx.RemoteProtocolError):
        fetch(sim, response)
    assert fetch(sim, response).status_code == 200


# --- directives and rates


def test_directives_run_out_in_the_order_they_are_written(sim: Client) -> None:
    prompt = "in order [sim:fail=503*2] [sim:429conc*1] [sim:fail=400*1]"
    assert [edit(sim, prompt=prompt).status_code for _ in range(6)] == [503, 503, 429, 400, 200, 200]
    assert edit(sim, prompt=prompt, image=picture(colour="red")).status_code == 503, "another image counts for itself"
    assert [call["billed"] for call in calls(sim, "in order")] == [False] * 4 + [True] * 2 + [False]


@pytest.mark.parametrize(
    ("directive", "error", "billed"),
    [
        ("reset", (httpx.ReadError, httpx.RemoteProtocolError), False),
        ("truncate", httpx.RemoteProtocolError, True),
        ("hang", httpx.ReadTimeout, False),
        ("drip=10", httpx.ReadTimeout, True),
    ],
)
def test_answers_go_wrong_on_the_wire_once(sim: Client, directive: str, error: Any, billed: bool) -> None:
    prompt = f"wire [sim:{directive}*1]"
    with Client(base_url=sim.base_url, timeout=httpx.Timeout(20, read=0.7)) as client, pytest.raises(error):
        # A drip never lets a read time out: its caller needs a deadline over the whole call.
        read_within(client, prompt, 0.7)
    (call,) = until(lambda: [c for c in calls(sim, prompt) if c["duration_ms"] is not None])
    assert (call["outcome"], call["billed"]) == (directive.partition("=")[0], billed)
    assert edit(sim, prompt=prompt).status_code == 200


def read_within(client: Client, prompt: str, deadline_s: float) -> None:
    end = time.monotonic() + deadline_s
    fields = {"model": STEP, "prompt": prompt}
    with client.stream("POST", "/v1/images/edits", data=fields, files={"image": SMALL}, headers=KEY) as response:
        for _ in response.iter_raw():
            if time.monotonic() > end:
                raise httpx.ReadTimeout("the whole call took too long")


def test_an_answer_can_be_garbage_or_far_too_large(sim: Client) -> None:
    garbage = edit(sim, prompt="[sim:garbage*1]")
    assert garbage.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        garbage.json()
    large = edit(sim, prompt="[sim:oversized=3000000]")
    assert len(large.content) == 3_000_000
    assert only(large)["finish_reason"] == "success"


def test_a_picture_can_be_broken_or_of_the_wrong_size(sim: Client) -> None:
    bad = fetch(sim, edit(sim, prompt="[sim:badimage*1]")).content
    assert bad.startswith(b"\x89PNG")
    with pytest.raises((OSError, SyntaxError)):
        opened(bad)
    assert opened(fetch(sim, edit(sim, prompt="[sim:wrongsize]")).content).size == (24, 16)


def test_the_content_filter_speaks_in_the_answer(sim: Client) -> None:
    assert set(only(edit(sim, prompt="[sim:filtered]"))) == {"seed", "finish_reason"}
    item = only(edit(sim, prompt="[sim:filtered=image]"))
    assert item["finish_reason"] == "content_filtered"
    assert sim.get(item["url"]).status_code == 200
    with simulator(filtered_prompts="weapon,blood") as client:
        assert only(edit(client, prompt="a weapon"))["finish_reason"] == "content_filtered"
        assert only(edit(client, prompt="a flower"))["finish_reason"] == "success"


def test_a_call_is_in_flight_for_its_latency(sim: Client) -> None:
    prompt = "slow [sim:latency=700]"
    caller = threading.Thread(target=lambda: edit(sim, prompt=prompt))
    caller.start()
    until(lambda: [call for call in calls(sim, prompt) if call["accepted"] and call["duration_ms"] is None])
    caller.join(10)
    (call,) = calls(sim, prompt)
    assert (call["status"], call["duration_ms"] >= 700) == (200, True)


RATES = [
    ({"error_rate": 1, "error_statuses": "504"}, 504),
    ({"quota_exhausted": True}, 402),
    ({"retired": "404"}, 404),
    ({"retired": "405"}, 405),
    ({"retired": "410"}, 410),
    ({"keys": ["other"]}, 401),
    ({"reset_rate": 1}, "reset"),
    ({"hang_rate": 1}, "hang"),
    ({"truncate_rate": 1}, "truncate"),
    ({"garbage_rate": 1}, "garbage"),
    ({"drip_bytes_per_s": 5000}, "drip"),
    ({"oversized_bytes": 5000}, "oversized"),
]


@pytest.mark.parametrize(("knobs", "seen"), RATES)
def test_a_knob_turned_at_run_time_holds_for_the_next_call(knobs: dict[str, Any], seen: int | str) -> None:
    with simulator() as client:
        assert edit(client).status_code == 200
        turned = client.patch("/_sim/knobs", json=knobs)
        assert turned.status_code == 200
        assert turned.json() == client.get("/_sim/knobs").json()
        with contextlib.suppress(httpx.HTTPError):
            edit(client, timeout=0.3 if seen == "hang" else 20)
        summary = until(
            lambda: (s := client.get("/_sim/calls?summary=1").json())["in_flight"] == 0 and s["calls"] == 2 and s
        )
        assert summary["by_status" if isinstance(seen, int) else "by_outcome"][str(seen)] == 1


def test_a_retired_endpoint_can_answer_like_a_wrong_path_and_a_bad_knob_is_refused() -> None:
    with simulator(retired="plain") as client:
        response = edit(client)
        assert (response.status_code, response.text) == (404, "404 page not found")
        for wrong in ({"no_such": 1}, {"error_rate": 2}, [1]):
            assert client.patch("/_sim/knobs", json=wrong).status_code == 422
        assert client.patch("/_sim/knobs", content=b"{").status_code == 422
        assert client.get("/_sim/knobs").json()["retired"] == "plain"


def test_pictures_and_downloads_go_wrong_by_knob() -> None:
    with simulator(wrong_size=True, download_fail=1, download_latency_ms=1) as client:
        response = edit(client)
        assert [fetch(client, response).status_code for _ in range(2)] == [503, 200]
        assert opened(fetch(client, response).content).size == (24, 16)
        client.patch("/_sim/knobs", json={"download_fail": -1, "bad_image_rate": 1})
        assert [fetch(client, response).status_code for _ in range(3)] == [503] * 3
        client.patch("/_sim/knobs", json={"download_fail": 0})
        with pytest.raises((OSError, SyntaxError)):
            opened(fetch(client, edit(client)).content)


def test_the_same_random_seed_errs_on_the_same_calls() -> None:
    def run() -> list[int]:
        with simulator(error_rate=0.5, rng_seed=11) as client:
            return [edit(client).status_code for _ in range(20)]

    first = run()
    assert first == run()
    assert {200, 500, 503} == set(first)


# --- limits


@pytest.mark.parametrize("form", ["none", "seconds", "date"])
def test_the_minute_is_limited_with_and_without_retry_after(form: str) -> None:
    with simulator(rpm=3, retry_after=form) as client:
        assert [edit(client).status_code for _ in range(3)] == [200] * 3
        refused = edit(client)
        assert refused.json()["error"] == {
            "message": "request limited RPM reached, current: 4, limit: 3",
            "type": "rate_limited",
        }
        told = refused.headers.get("Retry-After")
        if form == "none":
            assert told is None
        elif form == "seconds":
            assert 1 <= int(told) <= 60
        else:
            assert email.utils.parsedate_to_datetime(told).timestamp() > time.time()
        assert edit(client, model="qwen-image-edit").status_code == 200, "another model has its own minute"
        assert edit(client, prompt="").status_code == 400, "what is refused anyway is not held to the limit"
        assert client.get("/_sim/calls?summary=1").json()["peak_accepted_starts_60s"] == 4


def test_calls_in_flight_are_limited_and_a_directive_is_kept_for_an_accepted_call() -> None:
    with simulator(concurrency=1, latency_ms=30_000) as client, contextlib.ExitStack() as stack:
        hung = stack.enter_context(Client(base_url=client.base_url))
        thread = threading.Thread(target=lambda: give_up(hung, "[sim:hang]"))
        thread.start()
        until(lambda: any(call["accepted"] for call in calls(client, "hang")))
        refused = edit(client, prompt="later [sim:fail=503*1][sim:latency=0]")
        assert refused.json()["error"]["message"] == "concurrency reached, current: 2, limit: 1"
        thread.join(10)
        until(lambda: client.get("/_sim/calls?summary=1").json()["in_flight"] == 0)
        again = [edit(client, prompt="later [sim:fail=503*1][sim:latency=0]").status_code for _ in range(2)]
        assert again == [503, 200]
        assert client.get("/_sim/calls?summary=1").json()["peak_in_flight"] == 2


def give_up(client: Client, prompt: str) -> None:
    with contextlib.suppress(httpx.ReadTimeout):
        edit(client, prompt=prompt, timeout=2)


# --- the ledger


def test_every_call_is_entered_and_can_be_forgotten() -> None:
    with simulator() as client:
        response = edit(client, prompt="entered", seed="9", headers=KEY | {"X-Job": "j1"})
        edit(client, prompt="x" * 513)
        (call,) = calls(client, "entered")
        assert call["trace_id"] == response.headers["X-Trace-Id"]
        assert call["image_sha256"] == hashlib.sha256(SMALL).hexdigest()
        assert call["headers"]["x-job"] == "j1"
        assert "authorization" not in call["headers"]
        assert (call["model"], call["seed"], call["status"], call["billed"]) == (STEP, 9, 200, True)
        summary = client.get("/_sim/calls?summary=1").json()
        assert (summary["calls"], summary["by_status"], summary["billed"]) == (2, {"200": 1, "400": 1}, 1)
        assert client.delete("/_sim/calls").status_code == 204
        assert client.get("/_sim/calls").json() == {"data": []}


def test_fast_results_are_prepared_once_for_a_size(sim: Client) -> None:
    with simulator(fast=True) as client:
        first, second = (fetch(client, edit(client, image=picture(colour=colour))) for colour in ("red", "blue"))
        assert first.content == second.content
        assert opened(fetch(client, edit(client, image=picture(30, 20))).content).size == (30, 20)
        broken = edit(client, image=picture(31, 21)[:-30])
        assert broken.status_code == 400
        assert edit(client, image=picture(31, 21)).status_code == 200, "a damaged image does not spoil its size"


# --- the openai dialect


def test_openai_answers_pictures_with_usage(sim: Client) -> None:
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
def test_openai_errors_carry_code_and_param(
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


def test_an_empty_openai_account_is_a_429_of_its_own() -> None:
    with simulator(quota_exhausted=True) as client:
        response = edit(client, model="gpt-image-1.5")
        assert (response.status_code, response.json()["error"]["code"]) == (429, "insufficient_quota")


def test_vllm_takes_its_own_parameters_and_is_repeatable(sim: Client) -> None:
    fields: dict[str, Any] = {"num_inference_steps": "20", "guidance_scale": "1", "true_cfg_scale": "4", "seed": "1"}
    first, second = (only(edit(sim, model="qwen-image-edit", **fields)) for _ in range(2))
    assert first == second
    assert opened(base64.b64decode(first["b64_json"])).size == (48, 32)
    assert edit(sim, model="qwen-image-edit", true_cfg_scale="much").json()["error"]["param"] == "true_cfg_scale"


def test_sglang_answers_a_relative_url(sim: Client) -> None:
    url = only(edit(sim, model="qwen-image-edit-sglang"))["url"]
    assert url.startswith("/")
    assert opened(sim.get(url).content).size == (48, 32)


def test_the_official_sdk_edits_an_image_with_both_dialects(sim: Client) -> None:
    client = openai.OpenAI(api_key="sim-key", base_url=f"{sim.base_url}/v1", max_retries=0)
    done = client.images.edit(model="gpt-image-1.5", image=("in.png", SMALL), prompt="make it blue")
    assert done.data
    assert opened(base64.b64decode(done.data[0].b64_json or "")).size == (48, 32)
    done = client.images.edit(model=STEP, image=("in.png", SMALL), prompt="make it blue")
    assert done.data
    assert sim.get(done.data[0].url or "").status_code == 200
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="other").images.edit(model=STEP, image=("in.png", SMALL), prompt="blue")


# --- the command


def test_the_command_serves_with_knobs_from_flags_and_stops_on_sigterm() -> None:
    command = [sys.executable, "-m", "infra.simulator", "--port", "0"]
    flags = ["--keys", "one,two", "--error-statuses", "504", "--error-rate", "1", "--fast"]
    with subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            address = process.stdout.readline().split()[-1]
            with Client(base_url=address) as client:
                until(lambda: client.get("/livez").status_code == 200)
                assert edit(client, headers={"Authorization": "Bearer two"}).status_code == 504
                assert client.get("/_sim/knobs").json()["fast"] is True
            taken = subprocess.run(
                [*command[:-1], address.rpartition(":")[2]], capture_output=True, text=True, check=False
            )
            assert (taken.returncode, taken.stderr.count("\n")) == (1, 1)
        finally:
            process.terminate()
        assert process.wait(10) in {0, -15}
    wrong = subprocess.run([*command, "--error-rate", "2"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "error_rate" in wrong.stderr
