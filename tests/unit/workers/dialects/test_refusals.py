"""Every refusal of an endpoint, and every fault on the way, becomes one failure of ours."""

import inspect
import json
import socket
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from jobs.catalogue.catalogue import ModelSpec
from jobs.foundation.errors import (
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
from jobs.records.job_models import EditParameters
from tests.support.dialect_endpoints import KEY, PICTURE, STEPFUN, at, call, edit, error_body, failure, models, success
from tests.support.loopback import Request, answer, reset, serve
from workers.dialects import dialect_of
from workers.dialects.calls import EditCall
from workers.dialects.refusals import transport_failure
from workers.net.http import Http, retry_after_s


@pytest.fixture
def http() -> Iterator[Http]:
    opened = Http()
    yield opened
    opened.close()


@pytest.fixture
def catalogue(tmp_path: Path) -> Callable[[str], ModelSpec]:
    return models(tmp_path)


STATUSES: list[tuple[int, type[EditFailure], str]] = [
    (400, RequestRefused, "refuses the request"),
    (401, ModelTrouble, "renew STEP_API_KEY"),
    (402, ModelTrouble, "top it up"),
    (403, ModelTrouble, "STEP_API_KEY"),
    (404, ModelTrouble, "configure another model in retouch.toml"),
    (405, ModelTrouble, "base_url"),
    (406, RequestRefused, "refuses the request"),
    (407, ModelTrouble, "proxy"),
    (408, Transient, "408"),
    (409, Transient, "409"),
    (410, ModelTrouble, "configure another model in retouch.toml"),
    (411, RequestRefused, "refuses the request"),
    (413, RequestRefused, "refuses the request"),
    (415, RequestRefused, "refuses the request"),
    (422, RequestRefused, "refuses the request"),
    (425, Transient, "425"),
    (429, RateLimited, "too many requests"),
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
def test_the_type_and_code_of_an_error_refine_its_status(
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
def test_the_limit_and_the_wait_are_read_from_a_429(
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


def test_a_503_is_retried_after_its_retry_after(http: Http) -> None:
    found = failure(http, answer(503, b"", retry_after="30"))
    assert isinstance(found, Transient)
    assert found.retry_after_s == 30


def test_a_reset_after_the_request_leaves_the_outcome_unknown(http: Http) -> None:
    found = failure(http, lambda connection, _request: reset(connection))
    assert type(found) is OutcomeUnknown
    assert found.maybe_billed


def test_a_call_that_is_not_answered_in_time_leaves_the_outcome_unknown(http: Http) -> None:
    found = failure(http, lambda _connection, _request: None, timeout_s=1.5)
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

    found = failure(http, drip, timeout_s=1.5)
    assert type(found) is OutcomeUnknown


def test_a_refusal_with_an_incomplete_body_keeps_its_kind(http: Http) -> None:
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


def test_a_stop_before_the_call_returns_the_job(http: Http) -> None:
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
    assert type(download_failure(http, script, timeout_s=1.5)) is DownloadFailed


def test_a_result_that_is_too_large_is_bad(http: Http) -> None:
    assert type(download_failure(http, answer(200, bytes(2000)), max_result_bytes=1999)) is BadResult


@pytest.mark.parametrize("url", ["http://169.254.169.254/meta", "http://10.0.0.1/r.png", "http://[::1]:1/r.png"])
def test_a_result_that_lies_at_another_private_address_parks_the_model(http: Http, url: str) -> None:
    with pytest.raises(ModelTrouble, match="RETOUCH_ALLOW_PRIVATE_ADDRESSES"):
        dialect_of(STEPFUN, http).download(url, at("http://127.0.0.1:9"))


PROMPT = "a-confidential-prompt"
FAULT = {"loc": ["body", "prompt"], "msg": "String should have at most 9 characters", "type": "string_too_long"}
REPR = f"1 validation error:\n {{'loc': ('body', 'prompt'), 'msg': 'too long', 'input': '{PROMPT}'}}"
SHOWN = f"prompt\n  String is too long [type=string_too_long, input_value='{PROMPT}', input_type=str]"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"detail": [{**FAULT, "input": PROMPT}]}, "body.prompt: String should have at most 9 characters"),
        ({"detail": {**FAULT, "input": PROMPT}}, "body.prompt: String should have at most 9 characters"),
        ([{**FAULT, "input": {"prompt": PROMPT}}], "body.prompt: String should have at most 9 characters"),
        ({"error": [{**FAULT, "input": PROMPT}]}, "body.prompt: String should have at most 9 characters"),
        ({"error": {"message": REPR}}, "'msg': 'too long'"),
        ({"error": {"message": json.dumps([{**FAULT, "input": PROMPT}])}}, "String should have at most 9 characters"),
        ({"error": {"message": SHOWN}}, "String is too long"),
        ({"detail": "prompt: too long"}, "prompt: too long"),
        ({"detail": [[PROMPT], FAULT]}, "body.prompt: String should have at most 9 characters"),
    ],
)
def test_a_validation_error_is_reported_without_the_prompt(http: Http, body: object, expected: str) -> None:
    found = failure(http, answer(422, json.dumps(body).encode()))
    assert type(found) is RequestRefused
    assert expected in found.message
    assert PROMPT not in found.message


def test_an_incomplete_validation_error_is_reported_without_the_prompt(http: Http) -> None:
    found = failure(http, answer(422, json.dumps({"detail": [{**FAULT, "input": PROMPT}]})[:-2].encode()))
    assert "String should have at most 9 characters" in found.message
    assert PROMPT not in found.message
