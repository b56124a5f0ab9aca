"""Around every request: its id, its line in the log, HEAD as GET without a body, and the last net for errors."""

import re
import time

import structlog
from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http import problems
from jobs.foundation.ids import new_id
from jobs.foundation.tracing import trace_id_of

HEADER = "X-Request-Id"
QUIET = frozenset({"/livez", "/readyz", "/metrics"})
"""Asked every few seconds by whatever supervises the process; logged only when they fail."""

MADE = re.compile(r"/v1/(jobs|batches)/([\w-]+)")

log = structlog.get_logger("api.access")


class RequestLog:
    """Names each request, logs it when it is answered, and answers what nothing else caught by a problem.

    The log has the route's template and never a query, a body or a key. It names the tenant where the route has left it
    in the request's state, and the job or batch where the answer's `Location` tells what was made.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if re.fullmatch(r"[\w.:/+=@-]{1,128}", given, re.ASCII) else new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.perf_counter()
        status, made = 0, {}

        async def answer(message: Message) -> None:
            nonlocal status, made
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[HEADER] = request_id
                made = _made(headers.get("location", ""))
            await send(message)

        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        if trace_id := trace_id_of(Headers(scope=scope).get("traceparent")):
            structlog.contextvars.bind_contextvars(trace_id=trace_id)
        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            pass  # it went away while its body was read: there is nobody to be answered
        except Exception as error:  # noqa: BLE001 - the outermost place: whatever it is, the client gets an answer
            problem = problems.of_any(error)
            if not status:
                await problems.render(Request(scope), problem)(scope, receive, answer)
        finally:
            self._log(scope, status, (time.perf_counter() - began) * 1000, made)

    @staticmethod
    def _log(scope: Scope, status: int, ms: float, made: dict[str, str]) -> None:
        if scope["path"] in QUIET and status < 500:
            return
        path = getattr(scope.get("route"), "path", None) or "(no route)"
        if tenant := scope["state"].get("tenant"):
            made = {"tenant": tenant, **made}
        log.info("request", method=scope["method"], path=path, status=status, ms=round(ms, 1), **made)


def _made(location: str) -> dict[str, str]:
    """The id of the job or batch that an answer says was made. Other addresses are not logged: some are presigned."""
    found = MADE.fullmatch(location)
    return {"job_id" if found[1] == "jobs" else "batch_id": found[2]} if found else {}


class HeadAsGet:
    """HEAD on every path that takes GET: the same headers, no body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def headers_only(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        inner = {**scope, "method": "GET"}
        await self._app(inner, receive, headers_only)
        scope["route"] = inner.get("route")
