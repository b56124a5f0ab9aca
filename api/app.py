"""Builds the FastAPI application. Each process and each test builds its own; there is no global app."""

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
Image edits in bulk: submit an image and a prompt, read the job, download the result from the bucket.

Errors are RFC 9457 problem details (`application/problem+json`); `errors[]` names the invalid fields. The drop-in
endpoint `/v1/images/edits` returns `{"error": {"message", "type"}}` instead, in the format of the provider's API.
"""


def create_app(domain: Domain) -> FastAPI:
    """Build the API. The caller opens and closes `domain`, and serves the app with its lifespan enabled."""
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
    app.add_middleware(metrics.Latencies, registry=parts.metrics)  # added last, so it is the outermost
    return app


def _parts_of(domain: Domain) -> Parts:
    return Parts(
        api_keys=domain.api_keys,
        batch_rows=domain.rows,
        batch_submission=domain.batch_submission,
        batches=domain.batches,
        bucket=domain.bucket,
        catalogue=domain.catalogue,
        deliveries=domain.deliveries,
        delivery_loop=domain.delivery_loop,
        delivery_reader=domain.delivery_log,
        edit_loop=domain.edit_loop,
        endpoints=domain.endpoints,
        job_reader=domain.job_reader,
        job_submission=domain.job_submission,
        job_waiter=JobWaiter(domain.job_reader, domain.keys, domain.settings.redis_url.get_secret_value()),
        metrics=metrics.make_registry(domain.stats, by_tenant=domain.settings.metrics_tenants),
        planner=domain.planner,
        publisher=domain.publisher,
        quotas=domain.quotas,
        redis=domain.redis,
        reject_files=domain.rejects,
        rollbacks=domain.rollbacks,
        runs=domain.runs,
        schedule_submission=domain.schedule_submission,
        schedules=domain.schedules,
        settings=domain.settings,
        stats=domain.stats,
        status=domain.status,
        task_publisher=domain.task_publisher,
        tenants=domain.tenants,
    )


def _version() -> str:
    try:
        return version("retouch")
    except PackageNotFoundError:  # the package is not installed
        return "0"
