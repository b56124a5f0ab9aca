"""Every error class has a row in the table of problems, and is rendered in both formats."""

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from api.http import problems
from api.http.problems import DROPIN_PATH, KINDS
from api.middleware import HeadAsGet, RequestLog
from jobs.foundation import errors
from jobs.foundation.errors import FieldError, RetouchError


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    """Disable the rendering of tracebacks, which takes seconds."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), processors=[])
    yield
    structlog.reset_defaults()


CLASSES = [
    cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, RetouchError)
]  # fmt: skip


def make_error(cls: type[RetouchError]) -> RetouchError:
    """An instance of an error class."""
    match cls:
        case errors.InvalidInput:
            return errors.InvalidInput(FieldError("prompt", "too long", "too_long"), FieldError("seed", "too low"))
        case errors.QuotaExceeded:
            return errors.QuotaExceeded("used up", 90)
    return cls("it happened")


def respond(error: Exception, path: str = "/v1/jobs", method: str = "GET") -> httpx.Response:
    """The response of a route that raises `error`."""
    app = FastAPI()

    @app.get(path)
    def route() -> None:
        raise error

    problems.install(app)
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestLog)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            return await client.request(method, path)

    return asyncio.run(ask())


def test_every_error_class_has_its_own_row():
    assert set(CLASSES) - {RetouchError} == set(KINDS)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_is_rendered_in_both_formats(cls: type[RetouchError]):
    kind = KINDS.get(cls, problems.INTERNAL)
    answer = respond(make_error(cls))
    assert answer.status_code == kind.status
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == f"urn:retouch:problem:{kind.slug}"
    assert body["status"] == kind.status
    assert body["request_id"] == answer.headers["x-request-id"]
    answer = respond(make_error(cls), DROPIN_PATH)
    assert answer.status_code == (kind.dropin_status or kind.status)
    assert answer.json()["error"]["type"] == kind.dropin
    assert answer.json()["error"]["message"]


def test_a_problem_names_every_field():
    body = respond(make_error(errors.InvalidInput)).json()
    assert body["errors"] == [
        {"field": "prompt", "message": "too long", "code": "too_long"},
        {"field": "seed", "message": "too low", "code": "invalid"},
    ]
    assert body["detail"] == "prompt: too long; seed: too low"


@pytest.mark.parametrize(
    ("error", "header", "value"),
    [
        (errors.Unauthorized("no key"), "www-authenticate", 'Bearer realm="retouch"'),
        (errors.QuotaExceeded("used up", 90), "retry-after", "90"),
        (errors.RateLimited("too much", retry_after_s=2.5), "retry-after", "3"),
        (errors.Unavailable("away"), "retry-after", "5"),
        (errors.TooLarge("big"), "connection", "close"),
    ],
)
def test_a_problem_has_the_headers_of_its_error(error: RetouchError, header: str, value: str):
    assert respond(error).headers[header] == value


@pytest.mark.parametrize(
    "error",
    [
        errors.Unavailable("the store at 10.1.2.3 refuses our credentials"),
        errors.ConfigurationError("10.1.2.3"),
        RedisConnectionError("10.1.2.3"),
        RuntimeError("10.1.2.3"),
        ResponseError("WRONGTYPE 10.1.2.3"),
        RetouchError("10.1.2.3"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("path", ["/v1/jobs", DROPIN_PATH])
def test_operator_details_are_logged_but_not_returned(error: Exception, path: str):
    with capture_logs() as lines:
        answer = respond(error, path)
    assert "10.1.2.3" not in answer.text
    assert any("10.1.2.3" in str(line.get("error", line.get("exc_info", ""))) for line in lines)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RedisConnectionError("away"), 503),
        (ResponseError("OOM command not allowed when used memory > 'maxmemory'"), 503),
        (ResponseError("ERR no such thing"), 500),
        (RuntimeError("a fault of ours"), 500),
    ],
)
def test_foreign_errors_are_mapped_by_whether_a_retry_can_help(error: Exception, status: int):
    assert respond(error).status_code == status


def test_an_unexpected_error_returns_its_request_id():
    with capture_logs() as lines:
        answer = respond(RuntimeError("a fault of ours"))
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    (line,) = [line for line in lines if line["event"] == "unexpected.error"]
    assert isinstance(line["exc_info"], RuntimeError)


def test_an_unknown_path_or_method_is_a_problem():
    def ask(method: str, path: str) -> dict[str, Any]:
        app = FastAPI(openapi_url=None)
        app.add_api_route("/known", lambda: None)
        problems.install(app)

        async def request() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
                return await client.request(method, path)

        body: dict[str, Any] = asyncio.run(request()).json()
        return body

    assert ask("GET", "/unknown")["type"] == "urn:retouch:problem:not-found"
    assert ask("DELETE", "/known")["type"] == "urn:retouch:problem:method-not-allowed"


def test_a_head_error_has_no_body():
    answer = respond(errors.NotFound("no such job"), method="HEAD")
    assert answer.status_code == 404
    assert answer.content == b""
