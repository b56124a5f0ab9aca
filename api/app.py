"""The application over a domain. There is none at module level: a process, or a test, makes its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI

from api import (
    dropin,
    metrics,
    operations,
    problems,
    routes_batches,
    routes_jobs,
    routes_models,
    routes_results,
    routes_rollback,
    routes_schedules,
    routes_stats,
    routes_tenants,
    routes_uploads,
    routes_webhooks,
    schema,
)
from api.middleware import HeadAsGet, RequestLog
from api.waiting import Waiting
from jobs.wiring import Domain

DESCRIPTION = """
Image edits in bulk: submit a picture and a prompt, read the job, fetch the result from the bucket.

Every error is a problem of RFC 9457 (`application/problem+json`); `errors[]` names the fields. The drop-in
`/v1/images/edits` answers `{"error": {"message", "type"}}` instead, as the endpoint it stands in for.
"""


def create_app(domain: Domain) -> FastAPI:
    """The API over `domain`, which the caller opens and closes. Serve it with its lifespan on."""
    waiting = Waiting(domain)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with waiting:
            yield

    app = FastAPI(
        title="Retouch", summary="Image edits in bulk", description=DESCRIPTION, version=_version(), lifespan=lifespan
    )
    app.state.domain = domain
    app.state.waiting = waiting
    app.state.metrics = metrics.registry_of(domain)
    for room in (
        routes_jobs,
        routes_batches,
        routes_results,
        routes_rollback,
        routes_schedules,
        routes_uploads,
        routes_models,
        routes_stats,
        routes_tenants,
        routes_webhooks,
        dropin,
        operations,
        metrics,
    ):
        app.include_router(room.router)
    problems.install(app)
    schema.install(app)
    domain.spans.instrument_api(app)
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestLog)
    app.add_middleware(metrics.Latencies, registry=app.state.metrics)  # added last, it is the outermost
    return app


def _version() -> str:
    try:
        return version("retouch")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "0"
