"""Renders errors: as RFC 9457 problems, or as `{"error": …}` for the drop-in endpoint."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from redis.exceptions import RedisError, ResponseError
from starlette.exceptions import HTTPException

from jobs.foundation import errors
from jobs.foundation.errors import FieldError, RetouchError
from jobs.foundation.input_errors import invalid_input

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:retouch:problem:"
RETRY_AFTER_S = 5
"""`Retry-After` of the errors for Redis, the broker, or the bucket, in seconds."""
UNAVAILABLE_DETAIL = "a storage service that Retouch needs does not answer"
DROPIN_PATH = "/v1/images/edits"

log = structlog.get_logger(__name__)


class FieldProblem(BaseModel):
    """One invalid field of a request."""

    field: str = Field(description="Name as submitted, with dots for nested fields; empty for the whole request.")
    message: str
    code: str = Field(description="A stable code for programs.")


class ProblemBody(BaseModel):
    """RFC 9457 problem details."""

    type: str = Field(description=f"`{TYPE_PREFIX}` and a stable code.", examples=[f"{TYPE_PREFIX}invalid-input"])
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] = Field(default_factory=list, description="The invalid fields, if any.")
    request_id: str | None = Field(default=None, description="Quote this id when you contact the operator.")


@dataclass(frozen=True)
class Kind:
    """How one class of errors is rendered.

    Attributes:
        slug: last part of the problem's `type`.
        status: HTTP status.
        dropin: `error.type` of the drop-in endpoint; StepFun's value where one exists.
        dropin_status: HTTP status of the drop-in endpoint, if it differs.
    """

    slug: str
    status: int
    dropin: str
    dropin_status: int | None = None

    @property
    def title(self) -> str:
        """The slug as a short phrase."""
        return self.slug.replace("-", " ").capitalize()


INVALID = Kind("invalid-input", 422, "request_params_invalid", 400)
UNAVAILABLE = Kind("unavailable", 503, "service_unavailable")
INTERNAL = Kind("internal", 500, "internal_error")

KINDS: dict[type[RetouchError], Kind] = {
    errors.InvalidInput: INVALID,
    errors.Unauthorized: Kind("unauthorized", 401, "invalid_api_key"),
    errors.Forbidden: Kind("forbidden", 403, "forbidden"),
    errors.NotFound: Kind("not-found", 404, "not_found"),
    errors.Conflict: Kind("conflict", 409, "conflict"),
    errors.TooLarge: Kind("too-large", 413, "request_too_large"),
    errors.IdempotencyMismatch: Kind("idempotency-mismatch", 422, "idempotency_mismatch", 400),
    errors.QuotaExceeded: Kind("quota-exceeded", 429, "rate_limited"),
    errors.Unavailable: UNAVAILABLE,
    errors.ConfigurationError: INTERNAL,
    errors.EditFailure: INTERNAL,
    errors.InputRejected: INVALID,
    errors.RequestRefused: INVALID,
    errors.Filtered: Kind("filtered", 422, "censorship_blocked", 451),
    errors.RateLimited: Kind("rate-limited", 429, "rate_limited"),
    errors.ModelTrouble: Kind("model-parked", 503, "service_unavailable"),
    errors.Transient: UNAVAILABLE,
    errors.InputUnavailable: UNAVAILABLE,
    errors.OutcomeUnknown: Kind("timeout", 504, "timeout"),
    errors.BadResult: UNAVAILABLE,
    errors.DownloadFailed: UNAVAILABLE,
    errors.StorageFailed: UNAVAILABLE,
    errors.ResultGone: UNAVAILABLE,
    errors.WorkerLost: INTERNAL,
    errors.DeadlineExceeded: Kind("deadline-exceeded", 504, "timeout"),
    errors.Interrupted: UNAVAILABLE,
}
"""Every class of `jobs.foundation.errors`. A test fails if a class is missing here."""


@dataclass(frozen=True)
class Problem:
    """An error that can be rendered in either format."""

    kind: Kind
    detail: str
    errors: tuple[FieldError, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


def of_error(error: RetouchError) -> Problem:
    """The problem for an error of `jobs.foundation.errors`."""
    kind = next((KINDS[cls] for cls in type(error).__mro__ if cls in KINDS), INTERNAL)
    headers: dict[str, str] = {}
    fields: tuple[FieldError, ...] = ()
    match error:
        case errors.InvalidInput():
            fields = error.errors
        case errors.TooLarge():
            # The rest of the body is not read, so the connection cannot be reused.
            headers["Connection"] = "close"
        case errors.Unauthorized():
            headers["WWW-Authenticate"] = 'Bearer realm="retouch"'
        case errors.QuotaExceeded():
            headers["Retry-After"] = str(max(1, error.retry_after_s))
        case errors.RateLimited():
            headers["Retry-After"] = str(math.ceil(error.retry_after_s or RETRY_AFTER_S))
    if kind.status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return Problem(kind, str(error) or kind.title, fields, headers)


def render(request: Request, problem: Problem) -> Response:
    """The response, in the format that clients of this path expect."""
    headers = dict(problem.headers)
    if request.url.path == DROPIN_PATH:
        kind = problem.kind
        return dropin_error(kind.dropin_status or kind.status, kind.dropin, problem.detail, headers)
    body = ProblemBody(
        type=TYPE_PREFIX + problem.kind.slug,
        title=problem.kind.title,
        status=problem.kind.status,
        detail=problem.detail,
        errors=[FieldProblem(field=e.field, message=e.message, code=e.code) for e in problem.errors],
        request_id=getattr(request.state, "request_id", None),
    )
    return Response(
        body.model_dump_json(exclude_none=True), problem.kind.status, headers=headers, media_type=MEDIA_TYPE
    )


def dropin_error(status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error in the format of StepFun's API; `kind` is `error.type`."""
    return JSONResponse({"error": {"message": message, "type": kind}}, status, headers=dict(headers or {}))


def of_any(error: Exception) -> Problem:
    """The problem for any exception. Unexpected exceptions are logged here and rendered without details."""
    match error:
        case RetouchError():
            problem = of_error(error)
            if problem.kind is UNAVAILABLE:
                # The message can contain addresses and setting names, which only the operator may see.
                log.warning("unavailable", error=str(error))
                return replace(problem, detail=UNAVAILABLE_DETAIL)
            if problem.kind is not INTERNAL:
                return problem
        case RequestValidationError():
            return of_error(invalid_input(error.errors(), skip=1))
        case HTTPException():
            return _of_http(error)
        case RedisError() if not isinstance(error, ResponseError) or "OOM" in str(error):
            log.warning("redis.unavailable", error=str(error))
            return of_error(errors.Unavailable(UNAVAILABLE_DETAIL))
    log.error("unexpected.error", exc_info=error)
    return Problem(INTERNAL, "an unexpected error occurred; the log has the details under this request's id")


def _of_http(error: HTTPException) -> Problem:
    phrase = HTTPStatus(error.status_code).phrase
    known = {kind.status: kind for kind in reversed(KINDS.values())}
    dropin = known[error.status_code].dropin if error.status_code in known else "request_params_invalid"
    kind = Kind(phrase.lower().replace(" ", "-"), error.status_code, dropin)
    detail = str(error.detail)
    if detail == phrase:
        detail = {404: "no such path", 405: "this path does not support this method"}.get(error.status_code, detail)
    return Problem(kind, detail, (), error.headers or {})


def install(app: FastAPI) -> None:
    """Render the errors that FastAPI and Starlette catch. `RequestLog` renders all others."""

    async def handle(request: Request, error: Exception) -> Response:
        return render(request, of_any(error))

    for kind in (RetouchError, RequestValidationError, HTTPException, RedisError):
        app.add_exception_handler(kind, handle)
