"""Each dialect sends the form that its endpoint expects, and validates the answer."""

import base64
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from jobs.catalogue.catalogue import ModelSpec
from jobs.foundation.errors import (
    BadResult,
    Filtered,
    ModelTrouble,
)
from jobs.records.job_models import EditParameters
from tests.support.dialect_endpoints import KEY, PICTURE, at, edit, failure, form, models, success
from tests.support.loopback import Request, answer, serve
from workers.dialects import dialect_of
from workers.dialects.calls import Answer, EditCall
from workers.net.http import Http


@pytest.fixture
def http() -> Iterator[Http]:
    opened = Http()
    yield opened
    opened.close()


@pytest.fixture
def catalogue(tmp_path: Path) -> Callable[[str], ModelSpec]:
    return models(tmp_path)


def test_a_stepfun_edit_is_asked_for_to_the_letter(http: Http) -> None:
    with serve(success(seed=7, finish_reason="success")) as server:
        found = edit(
            http, at(server.url), seed=7, steps=8, cfg_scale=4.0, negative_prompt="blur", text_mode=False, size="1x1"
        )
        (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/v1/images/edits")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert 'filename="image.png"' in request.body.decode("latin-1")
    assert form(request) == {
        "model": "step-image-edit-2",
        "prompt": "a red coat",
        "seed": "7",
        "steps": "8",
        "cfg_scale": "4",
        "negative_prompt": "blur",
        "text_mode": "false",
        "response_format": "url",
        "image": PICTURE,
    }
    assert found == Answer(
        url="https://r.example/1.png", seed=7, finish_reason="success", trace_id="trace-1", provider_id="img-1"
    )


def test_absent_parameters_are_not_sent(http: Http) -> None:
    with serve(success()) as server:
        edit(http, at(server.url))
        assert set(form(server.requests[0])) == {"model", "prompt", "response_format", "image"}


@pytest.mark.parametrize(
    ("name", "parameters", "fields"),
    [
        (
            "gpt-image-1.5",
            {"size": "1024x1024", "quality": "high", "background": "opaque", "output_format": "png"},
            {"size": "1024x1024", "quality": "high", "background": "opaque", "output_format": "png"},
        ),
        (
            "qwen-image-edit",
            {"seed": 3, "steps": 20, "cfg_scale": 4.5, "negative_prompt": "blur", "size": "512x512"},
            {
                "seed": "3",
                "num_inference_steps": "20",
                "true_cfg_scale": "4.5",
                "negative_prompt": "blur",
                "size": "512x512",
            },
        ),
        (
            "qwen-image-edit-sglang",
            {"seed": 3, "steps": 20, "cfg_scale": 0.1},
            {"seed": "3", "num_inference_steps": "20", "guidance_scale": "0.1", "response_format": "url"},
        ),
    ],
)
def test_each_endpoint_is_spoken_to_in_its_own_names(
    http: Http, catalogue: Callable[[str], ModelSpec], name: str, parameters: dict[str, object], fields: dict[str, str]
) -> None:
    with serve(success()) as server:
        edit(http, at(server.url, catalogue(name)), **parameters)
        sent = form(server.requests[0])
    assert sent == {"model": name, "prompt": "a red coat", "image": PICTURE, **fields}


def test_an_endpoint_without_a_key_gets_none(http: Http, catalogue: Callable[[str], ModelSpec]) -> None:
    with serve(success()) as server:
        model = at(server.url, catalogue("qwen-image-edit"))
        dialect_of(model, http).edit(EditCall(model, None, PICTURE, "image/png", EditParameters(prompt="p")))
        assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",) * 2,
        ("x\r\ninjected: yes", None),
        ("ä", None),
        (None, None),
    ],
)
def test_a_trace_context_is_passed_on_if_it_is_one(http: Http, given: str | None, sent: str | None) -> None:
    with serve(success()) as server:
        model = at(server.url)
        dialect_of(model, http).edit(
            EditCall(model, SecretStr(KEY), PICTURE, "image/png", EditParameters(prompt="p"), traceparent=given)
        )
        assert server.requests[0].headers.get("traceparent") == sent


@pytest.mark.parametrize("key", [None, "", "with space", "line\nend", "schlüssel"])
def test_an_invalid_key_parks_the_model_and_no_request_is_sent(http: Http, key: str | None) -> None:
    with serve(success()) as server:
        model = at(server.url)
        secret = SecretStr(key) if key is not None else None
        with pytest.raises(ModelTrouble, match="STEP_API_KEY") as caught:
            dialect_of(model, http).edit(EditCall(model, secret, PICTURE, "image/png", EditParameters(prompt="p")))
        assert not key or key not in caught.value.message
        assert server.requests == []


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"url": "/v1/results/1.png"}, "http://127.0.0.1:1/v1/results/1.png"),
        ({"url": "results/1.png"}, "http://127.0.0.1:1/v1/results/1.png"),
        ({"url": "//cdn.example/1.png"}, "http://cdn.example/1.png"),
        ({"url": "https://cdn.example/1.png?sig=a%2Fb"}, "https://cdn.example/1.png?sig=a%2Fb"),
    ],
)
def test_a_result_url_may_be_relative_to_the_endpoint(http: Http, result: dict[str, str], expected: str) -> None:
    with serve(success(**result)) as server:
        found = edit(http, at(server.url))
        assert found.url == expected.replace("127.0.0.1:1", f"127.0.0.1:{server.port}")


@pytest.mark.parametrize(("seed", "read"), [(5, 5), ("5", 5), (None, None), ("x", None), (True, None), (1.5, None)])
def test_a_seed_is_read_if_it_is_a_whole_number(http: Http, seed: object, read: int | None) -> None:
    with serve(success(seed=seed)) as server:
        assert edit(http, at(server.url)).seed == read


def test_a_picture_may_come_inside_the_answer(http: Http, catalogue: Callable[[str], ModelSpec]) -> None:
    body = json.dumps({"created": 1, "data": [{"b64_json": base64.b64encode(PICTURE).decode()}], "usage": {}}).encode()
    with serve(answer(200, body, x_request_id="req_1")) as server:
        found = edit(http, at(server.url, catalogue("gpt-image-1.5")))
    assert found == Answer(data=PICTURE, trace_id="req_1")


BAD: dict[str, bytes] = {
    "no json": answer(200, b"<html>"),
    "empty": answer(200, b""),
    "a number": answer(200, b"1"),
    "a list": answer(200, b"[]"),
    "no data": answer(200, b"{}"),
    "empty data": answer(200, b'{"data": []}'),
    "data of the wrong kind": answer(200, b'{"data": {"url": "x"}}'),
    "a result of the wrong kind": answer(200, b'{"data": ["x"]}'),
    "neither": answer(200, b'{"data": [{"seed": 1}]}'),
    "empty url": success(url=""),
    "url of the wrong kind": success(url=["x"]),
    "invalid url": success(url="http://[::1"),
    "url of another scheme": success(url="file:///etc/passwd"),
    "broken base64": success(url=None, b64_json="a"),
    "base64 with other letters": success(url=None, b64_json="ä==="),
    "invalid finish reason": success(finish_reason="error"),
    "a reason of the wrong kind": success(finish_reason=["success"]),
    "no content": answer(204),
    "deep json": answer(200, b"[" * 100_000),
    "truncated": answer(200, b'{"data"', content_length="1000"),
    "too long": answer(200, b"x" * 200_000),
    "too large inside": success(url=None, b64_json=base64.b64encode(bytes(1001)).decode()),
    "packed badly": answer(200, b"no gzip", content_encoding="gzip"),
}


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD)
def test_an_answer_that_is_no_result_is_bad_and_may_have_been_billed(http: Http, raw: bytes) -> None:
    def once(connection: socket.socket, request: Request) -> None:
        connection.sendall(raw)
        connection.close()

    found = failure(http, once, max_result_bytes=1000)
    assert type(found) is BadResult
    assert found.maybe_billed


def test_a_stopped_edit_is_filtered_even_with_a_picture_and_may_have_been_billed(http: Http) -> None:
    found = failure(http, success(finish_reason="content_filtered"))
    assert type(found) is Filtered
    assert found.maybe_billed
    assert found.trace_id == "trace-1"
