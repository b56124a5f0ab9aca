"""The application over a domain. There is none at module level: a process, or a test, makes its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI

from api import metrics
from api.context import Parts
from api.http import problems, schema
from api.middleware import HeadAsGet, RequestLog
from api.routes import (
    batches,
    health,
    jobs,
    models,
    openai_compatible,
    results,
    rollback,
    schedules,
    stats,
    tenants,
    uploads,
    webhooks,
)
from api.waiting import JobWaiter
from jobs.wiring import Domain

DESCRIPTION = """
Image edits in bulk: submit a picture and a prompt, read the job, fetch the result from the bucket.

Every error is a problem of RFC 9457 (`application/problem+json`); `errors[]` names the fields. The drop-in
`/v1/images/edits` answers `{"error": {"message", "type"}}` instead, as the endpoint it stands in for.
"""


def create_app(domain: Domain) -> FastAPI:
    """The API over `domain`, which the caller opens and closes. Serve it with its lifespan on."""
    parts = _parts_of(domain)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with parts.job_waiter:
            yield

    app = FastAPI(
        title="Retouch", summary="Image edits in bulk", description=DESCRIPTION, version=_version(), lifespan=lifespan
    )
    app.state.parts = parts
    for module in (
        jobs,
        batches,
        results,
        rollback,
        schedules,
        uploads,
        models,
        stats,
        tenants,
        webhooks,
        openai_compatible,
        health,
        metrics,
    ):
        app.include_router(module.router)
    problems.install(app)
    schema.install(app)
    domain.spans.instrument_api(app)
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestLog)
    app.add_middleware(metrics.Latencies, registry=parts.metrics)  # added last, it is the outermost
    return app


def _parts_of(domain: Domain) -> Parts:
    return Parts(
        batch_rows=domain.rows,
        batch_submission=domain.batch_submission,
        batches=domain.batches,
        broker=domain.broker,
        bucket=domain.bucket,
        catalogue=domain.catalogue,
        deliveries=domain.deliveries,
        delivery_reader=domain.delivery_log,
        endpoints=domain.endpoints,
        job_reader=domain.store,
        job_submission=domain.job_submission,
        job_waiter=JobWaiter(domain.store, domain.keys, domain.settings.redis_url.get_secret_value()),
        metrics=metrics.make_registry(domain.stats, by_tenant=domain.settings.metrics_tenants),
        planner=domain.planner,
        redis=domain.redis,
        reject_files=domain.rejects,
        rollbacks=domain.rollbacks,
        runs=domain.runs,
        schedule_submission=domain.schedule_submission,
        schedules=domain.schedules,
        settings=domain.settings,
        stats=domain.stats,
        status=domain.status,
        task_publisher=domain.chore_publisher,
        tenants=domain.tenants,
    )


def _version() -> str:
    try:
        return version("retouch")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "0"
