"""The application over a domain. There is none at module level: a process, or a test, makes its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI

from api import metrics
from api.http import problems, schema
from api.middleware import HeadAsGet, RequestLog
from api.routes import batches as routes_batches
from api.routes import health as operations
from api.routes import jobs as routes_jobs
from api.routes import models as routes_models
from api.routes import openai_compatible as dropin
from api.routes import results as routes_results
from api.routes import rollback as routes_rollback
from api.routes import schedules as routes_schedules
from api.routes import stats as routes_stats
from api.routes import tenants as routes_tenants
from api.routes import uploads as routes_uploads
from api.routes import webhooks as routes_webhooks
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
