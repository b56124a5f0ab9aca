"""Middleware for every request: its id, the access log, HEAD as GET without a body, unexpected errors."""

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
"""Probes request these every few seconds; they are logged only when they fail."""

CREATED = re.compile(r"/v1/(jobs|batches)/([\w-]+)")

log = structlog.get_logger("api.access")


class RequestLog:
    """Assigns a request id, logs each request after its response, and renders uncaught errors as problems.

    The log contains the route's template, but never a query, a body, or a key. It contains the tenant if the request
    was authenticated, and the id of the job or batch that the request created, taken from the `Location` header.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        requested_id = Headers(scope=scope).get(HEADER, "")
        request_id = requested_id if re.fullmatch(r"[\w.:/+=@-]{1,128}", requested_id, re.ASCII) else new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status, created = 0, {}

        async def answer(message: Message) -> None:
            nonlocal status, created
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[HEADER] = request_id
                created = _created_id(headers.get("location", ""))
            await send(message)

        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        if trace_id := trace_id_of(Headers(scope=scope).get("traceparent")):
            structlog.contextvars.bind_contextvars(trace_id=trace_id)
        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            pass  # the client disconnected while its body was read: no response is possible
        except Exception as error:  # noqa: BLE001 - the outermost handler: the client always gets a response
            problem = problems.of_any(error)
            if not status:
                await problems.render(Request(scope), problem)(scope, receive, answer)
        finally:
            self._log(scope, status, (time.perf_counter() - started) * 1000, created)

    @staticmethod
    def _log(scope: Scope, status: int, ms: float, created: dict[str, str]) -> None:
        if scope["path"] in QUIET and status < 500:
            return
        path = getattr(scope.get("route"), "path", None) or "(no route)"
        if tenant := scope["state"].get("tenant"):
            created = {"tenant": tenant, **created}
        log.info("request", method=scope["method"], path=path, status=status, ms=round(ms, 1), **created)


def _created_id(location: str) -> dict[str, str]:
    """The id of the created job or batch. Other locations are not logged, because some are presigned URLs."""
    match = CREATED.fullmatch(location)
    return {"job_id" if match[1] == "jobs" else "batch_id": match[2]} if match else {}


class HeadAsGet:
    """Supports HEAD on every GET route: the same headers, no body."""

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
