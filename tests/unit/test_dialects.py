"""Every answer of an endpoint, and every fault on the way, becomes one failure of ours."""

import base64
import email.message
import email.parser
import email.policy
import inspect
import json
import socket
from collections.abc import Callable, Iterator
from email.utils import formatdate

import httpx
import pytest
from pydantic import SecretStr

from jobs import errors
from jobs.catalogue import ModelSpec, load_catalogue
from jobs.errors import (
    BadResult,
    DownloadFailed,
    EditFailure,
    Filtered,
    Interrupted,
    ModelTrouble,
    OutcomeUnknown,
    RateLimited,
    RequestRefused,
    ResultGone,
    Transient,
)
from jobs.models import EditParameters
from tests.loopback import Request, answer, reset, serve
from workers.dialects import Answer, EditCall, dialect_of
from workers.dialects.refusals import transport_failure
from workers.http import Http, retry_after_s

KEY = "sk-very-secret"
PICTURE = bytes(range(256)) * 20
STEPFUN = load_catalogue().get("step-image-edit-2")

TOML = """
[models.step-image-edit-2]
dialect = "stepfun"

# OpenAI itself.
[models."gpt-image-1.5"]
dialect = "openai"
concurrency = 10

# vLLM-Omni on one's own GPUs: no key, one model a server, its own names for our parameters.
[models.qwen-image-edit]
dialect = "openai"
base_url = "http://gpu-1.intranet:8091/v1"
api_key_env = ""
keeps_size = true
parameters.seed = { type = "integer", min = 0, max = 2147483647 }
parameters.steps = { type = "integer", min = 1, max = 100, wire = "num_inference_steps" }
parameters.cfg_scale = { type = "number", min = 1, max = 20, wire = "true_cfg_scale" }
parameters.negative_prompt = { type = "string" }

# SGLang diffusion: the same route; asked for a URL, it answers with one that is relative to the server.
[models.qwen-image-edit-sglang]
dialect = "openai"
base_url = "http://gpu-2.intranet:30000/v1"
api_key_env = ""
response_format = "url"
parameters.seed = { type = "integer", min = 0, max = 2147483647 }
parameters.steps = { type = "integer", min = 1, max = 100, wire = "num_inference_steps" }
parameters.cfg_scale = { type = "number", min = 1, max = 20, wire = "guidance_scale" }
"""


@pytest.fixture
def http() -> Iterator[Http]:
    opened = Http()
    yield opened
    opened.close()


@pytest.fixture
def catalogue(tmp_path) -> Callable[[str], ModelSpec]:
    path = tmp_path / "retouch.toml"
    path.write_text(TOML)
    return load_catalogue(path).get


def call(model: ModelSpec, **parameters: object) -> EditCall:
    return EditCall(
        model=model,
        key=SecretStr(KEY),
        picture=PICTURE,
        media_type="image/png",
        parameters=EditParameters.model_validate({"prompt": "a red coat", **parameters}),
    )


def at(server_url: str, model: ModelSpec = STEPFUN, **changes: object) -> ModelSpec:
    return model.model_copy(update={"base_url": f"{server_url}/v1", **changes})


def edit(http: Http, model: ModelSpec, **parameters: object) -> Answer:
    return dialect_of(model, http).edit(call(model, **parameters))


def failure(
    http: Http, script: bytes | Callable[..., None], model: ModelSpec = STEPFUN, **changes: object
) -> EditFailure:
    """What an endpoint that does this makes of an edit; it has been asked exactly once."""
    with serve(script) as server:
        with pytest.raises(EditFailure) as caught:
            edit(http, at(server.url, model, **changes))
        assert len(server.requests) == 1
    assert KEY not in caught.value.message
    return caught.value


def form(request: Request) -> dict[str, str | bytes]:
    """The parts of a multipart body by name, the file's as bytes."""
    head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + request.body)
    parts: dict[str, str | bytes] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        payload = part.get_payload(decode=True)
        assert isinstance(name, str)
        assert isinstance(payload, bytes)
        assert name not in parts
        parts[name] = payload if part.get_filename() else payload.decode()
    return parts


def success(**result: object) -> bytes:
    body = {"id": "img-1", "created": 1, "data": [{"url": "https://r.example/1.png", **result}]}
    return answer(200, json.dumps(body).encode(), content_type="application/json", x_trace_id="trace-1")


def error_body(message: str = "why", **words: str) -> bytes:
    return json.dumps({"error": {"message": message, **words}}).encode()


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


def test_what_is_not_given_is_not_sent(http: Http) -> None:
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
def test_a_key_that_is_none_parks_the_model_before_anything_is_sent(http: Http, key: str | None) -> None:
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


STATUSES: list[tuple[int, type[EditFailure], str]] = [
    (400, RequestRefused, "wrong"),
    (401, ModelTrouble, "renew STEP_API_KEY"),
    (402, ModelTrouble, "top it up"),
    (403, ModelTrouble, "STEP_API_KEY"),
    (404, ModelTrouble, "configure another model in retouch.toml"),
    (405, ModelTrouble, "base_url"),
    (406, RequestRefused, "wrong"),
    (407, ModelTrouble, "proxy"),
    (408, Transient, "408"),
    (409, Transient, "409"),
    (410, ModelTrouble, "configure another model in retouch.toml"),
    (411, RequestRefused, "wrong"),
    (413, RequestRefused, "wrong"),
    (415, RequestRefused, "wrong"),
    (422, RequestRefused, "wrong"),
    (425, Transient, "425"),
    (429, RateLimited, "too much"),
    (451, Filtered, "refuses this content"),
    (500, Transient, "500"),
    (501, Transient, "501"),
    (502, Transient, "502"),
    (503, Transient, "503"),
    (504, Transient, "504"),
    (599, Transient, "599"),
    (301, ModelTrouble, "redirects to https://elsewhere.example"),
    (302, ModelTrouble, "redirects"),
    (307, ModelTrouble, "redirects"),
    (308, ModelTrouble, "redirects"),
]


BODIES = [b"", error_body(f"why {KEY}"), b"<html>\xff no json", b"[]", b'{"error": "why"}', b"1"]


@pytest.mark.parametrize(("status", "kind", "word"), STATUSES)
@pytest.mark.parametrize(
    "body", [b"", error_body(f"why {KEY}"), b"<html>\xff no json", b"[]", b'{"error": "why"}', b"1"]
)
def test_every_status_is_one_failure(http: Http, status: int, kind: type, word: str, body: bytes) -> None:
    found = failure(http, answer(status, body, x_trace_id="trace-9", location="https://elsewhere.example/v1"))
    assert type(found) is kind
    assert word in found.message
    assert found.provider_status == status
    assert found.trace_id == "trace-9"
    assert "\n" not in found.message
    if kind is ModelTrouble:
        for must in ("step-image-edit-2", "STEP_API_KEY", "/v1/images/edits"):
            assert must in found.message


WORDS: list[tuple[str, int, dict[str, str], type[EditFailure]]] = [
    ("step-image-edit-2", 400, {"type": "request_params_invalid"}, RequestRefused),
    ("step-image-edit-2", 402, {"type": "quota_exceeded"}, ModelTrouble),
    ("step-image-edit-2", 400, {"type": "censorship_blocked"}, Filtered),
    ("step-image-edit-2", 400, {"type": "model_not_found"}, ModelTrouble),
    ("gpt-image-1.5", 400, {"code": "moderation_blocked", "type": "image_generation_user_error"}, Filtered),
    ("gpt-image-1.5", 400, {"code": "content_policy_violation"}, Filtered),
    ("gpt-image-1.5", 429, {"code": "insufficient_quota", "type": "insufficient_quota"}, ModelTrouble),
    ("gpt-image-1.5", 429, {"code": "rate_limit_exceeded", "type": "requests"}, RateLimited),
    ("gpt-image-1.5", 400, {"code": "billing_hard_limit_reached"}, ModelTrouble),
    ("gpt-image-1.5", 404, {"code": "model_not_found"}, ModelTrouble),
    ("gpt-image-1.5", 400, {"code": "invalid_value", "param": "size"}, RequestRefused),
    ("gpt-image-1.5", 400, {"message": "The model `gpt-image-1.5` does not exist."}, ModelTrouble),
    ("gpt-image-1.5", 400, {"message": "size is not supported by this model, it may not exist"}, RequestRefused),
]


@pytest.mark.parametrize("case", WORDS, ids=str)
@pytest.mark.parametrize("wrapped", [True, False])
def test_an_errors_words_tell_what_its_status_does_not(
    http: Http,
    catalogue: Callable[[str], ModelSpec],
    case: tuple[str, int, dict[str, str], type[EditFailure]],
    wrapped: bool,
) -> None:
    name, status, words, kind = case
    error = {"message": "why", **words}
    body = json.dumps({"error": error} if wrapped else {"object": "error", **error}).encode()
    found = failure(http, answer(status, body), catalogue(name))
    assert type(found) is kind
    assert error["message"] in found.message


LIMITS: list[tuple[str, dict[str, str], tuple[str, int | None, float | None]]] = [
    ("request limited RPM reached, current: 11, limit: 10", {}, ("rate", 10, None)),
    ("concurrency reached, current: 11, limit: 10", {}, ("concurrency", 10, None)),
    ("concurrency reached, current: 11, limit: 10", {"retry_after": "3"}, ("concurrency", 10, 3)),
    ("too many requests", {}, ("unknown", None, None)),
    ("Rate limit reached on images per min. Limit: 5 / 1min.", {"retry_after": "12"}, ("rate", 5, 12)),
    ("slow down", {"x_ratelimit_limit_requests": "50"}, ("rate", 50, None)),
    (
        "slow down",
        {
            "x_ratelimit_limit_requests": "50",
            "x_ratelimit_remaining_requests": "0",
            "x_ratelimit_reset_requests": "1m2.5s",
        },
        ("rate", 50, 62.5),
    ),
    ("why", {"x_ratelimit_remaining_requests": "9", "x_ratelimit_reset_requests": "9s"}, ("unknown", None, None)),
    ("why", {"retry_after_ms": "1500", "retry_after": "2"}, ("unknown", None, 1.5)),
    ("why", {"retry_after": "soon"}, ("unknown", None, None)),
]


@pytest.mark.parametrize(("message", "headers", "expected"), LIMITS)
def test_a_429_says_what_is_limited_and_for_how_long(
    http: Http, message: str, headers: dict[str, str], expected: tuple[str, int | None, float | None]
) -> None:
    found = failure(http, answer(429, error_body(message), **headers))
    assert isinstance(found, RateLimited)
    assert (found.scope, found.limit, found.retry_after_s) == expected


def test_a_retry_after_may_be_a_date() -> None:
    now = 1_800_000_000.0
    assert retry_after_s({"retry-after": formatdate(now + 90, usegmt=True)}, now) == 90
    assert retry_after_s({"retry-after": formatdate(now - 90, usegmt=True)}, now) == 0
    assert retry_after_s({}, now) is None


def test_a_503_is_asked_again_when_it_says(http: Http) -> None:
    found = failure(http, answer(503, b"", retry_after="30"))
    assert isinstance(found, Transient)
    assert found.retry_after_s == 30


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
    "url that is none": success(url="http://[::1"),
    "url of another scheme": success(url="file:///etc/passwd"),
    "broken base64": success(url=None, b64_json="a"),
    "base64 with other letters": success(url=None, b64_json="ä==="),
    "a reason that is none": success(finish_reason="error"),
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


def test_a_reset_after_the_request_leaves_the_outcome_unknown(http: Http) -> None:
    found = failure(http, lambda connection, _request: reset(connection))
    assert type(found) is OutcomeUnknown
    assert found.maybe_billed


def test_a_call_that_is_not_answered_in_time_leaves_the_outcome_unknown(http: Http) -> None:
    found = failure(http, lambda _connection, _request: None, timeout_s=0.3)
    assert type(found) is OutcomeUnknown
    assert found.maybe_billed


def test_an_answer_that_drips_ends_with_the_deadline(http: Http) -> None:
    def drip(connection: socket.socket, request: Request) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        connection.settimeout(0.02)
        while True:
            connection.sendall(b" ")
            try:
                if not connection.recv(1):
                    return
            except TimeoutError:
                continue

    found = failure(http, drip, timeout_s=0.4)
    assert type(found) is OutcomeUnknown


def test_a_refusal_whose_body_breaks_off_is_still_that_refusal(http: Http) -> None:
    def break_off(connection: socket.socket, request: Request) -> None:
        connection.sendall(answer(401, b"{", content_length="1000"))
        connection.close()

    assert type(failure(http, break_off)) is ModelTrouble


def test_an_endpoint_that_is_not_there_cannot_have_billed(http: Http) -> None:
    with serve(b"") as server:
        model = at(server.url)
    with pytest.raises(Transient) as caught:
        edit(http, model)
    assert type(caught.value) is Transient
    assert not caught.value.maybe_billed


def test_a_stop_before_the_call_hands_the_job_back(http: Http) -> None:
    with serve(success()) as server:
        model = at(server.url)
        stopped = EditCall(model, SecretStr(KEY), PICTURE, "image/png", EditParameters(prompt="p"), stop=lambda: True)
        with pytest.raises(Interrupted):
            dialect_of(model, http).edit(stopped)
        assert server.requests == []


def httpx_errors() -> Iterator[type[Exception]]:
    for _, kind in inspect.getmembers(httpx, inspect.isclass):
        if issubclass(kind, Exception):
            yield kind


@pytest.mark.parametrize("kind", list(httpx_errors()))
def test_every_error_of_httpx_leaves_an_edit_and_a_download_as_a_failure_of_ours(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = kind.__new__(kind)
    Exception.__init__(error, "made")

    def fail(*args: object, **options: object) -> None:
        raise error

    http = Http()
    monkeypatch.setattr(http, "exchange", fail)
    dialect = dialect_of(STEPFUN, http)
    with pytest.raises(EditFailure):
        dialect.edit(call(STEPFUN))
    with pytest.raises(EditFailure):
        dialect.download("https://r.example/1.png", STEPFUN)
    sent = issubclass(kind, httpx.ReadError | httpx.ReadTimeout | httpx.RemoteProtocolError)
    assert not sent or isinstance(transport_failure(error, STEPFUN), OutcomeUnknown)
    unsent = issubclass(kind, httpx.ConnectError | httpx.ConnectTimeout | httpx.WriteError | httpx.PoolTimeout)
    assert not unsent or type(transport_failure(error, STEPFUN)) is Transient


def download_failure(http: Http, script: bytes | Callable[..., None], **changes: object) -> EditFailure:
    with serve(script) as server, pytest.raises(EditFailure) as caught:
        dialect_of(STEPFUN, http).download(f"{server.url}/r.png", at(server.url, STEPFUN, **changes))
    return caught.value


def test_a_result_is_fetched_without_the_key(http: Http) -> None:
    with serve(answer(200, PICTURE)) as server:
        assert dialect_of(STEPFUN, http).download(f"{server.url}/r.png", at(server.url)) == PICTURE
        assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, ResultGone), (404, ResultGone), (410, ResultGone), (401, DownloadFailed), (408, DownloadFailed)]
    + [(status, DownloadFailed) for status in (400, 429, 500, 502, 503, 504)],
)
def test_a_result_is_gone_or_only_not_there_now(http: Http, status: int, kind: type) -> None:
    found = download_failure(http, answer(status, b"", retry_after="4"))
    assert type(found) is kind
    assert found.provider_status == status
    assert not isinstance(found, DownloadFailed) or found.retry_after_s == 4


@pytest.mark.parametrize(
    "script",
    [
        lambda connection, _request: reset(connection),
        lambda connection, _request: (connection.sendall(answer(200, b"x", content_length="9")), connection.close()),
        lambda _connection, _request: None,
    ],
    ids=["reset", "truncated", "hang"],
)
def test_a_download_that_breaks_off_may_be_tried_again(http: Http, script: Callable[..., None]) -> None:
    assert type(download_failure(http, script, timeout_s=0.3)) is DownloadFailed


def test_a_result_that_is_too_large_is_bad(http: Http) -> None:
    assert type(download_failure(http, answer(200, bytes(2000)), max_result_bytes=1999)) is BadResult


@pytest.mark.parametrize("url", ["http://169.254.169.254/meta", "http://10.0.0.1/r.png", "http://[::1]:1/r.png"])
def test_a_result_that_lies_at_another_private_address_parks_the_model(http: Http, url: str) -> None:
    with pytest.raises(ModelTrouble, match="RETOUCH_ALLOW_PRIVATE_ADDRESSES"):
        dialect_of(STEPFUN, http).download(url, at("http://127.0.0.1:9"))


def test_the_classes_that_leave_an_edit_are_all_ours() -> None:
    kinds = {kind for _, kind, _ in STATUSES} | {kind for *_, kind in WORDS}
    assert all(kind.__module__ == errors.__name__ for kind in kinds)
