"""`/livez` and `/readyz`: probes for supervisors. They need no API key and return nothing about tenants."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import structlog
from fastapi import APIRouter, Response
from pydantic import BaseModel

from api.context import BucketOf, PublisherOf, RedisOf, StatusOf
from api.http.responses import answer
from jobs.catalogue.status import Status
from jobs.queueing.celery_app import EDITS

router = APIRouter(tags=["operations"])
log = structlog.get_logger(__name__)


class Live(BaseModel):
    """The process responds."""

    status: Literal["alive"] = "alive"


class Check(BaseModel):
    """The state of one service that the API needs."""

    ok: bool
    message: str | None = None


class Ready(BaseModel):
    """Whether the API can accept submits."""

    ready: bool
    checks: dict[str, Check]
    edit_workers: int | None
    """Live workers of the edit queue; None if Redis does not answer. Jobs wait for workers, so zero is still ready."""


@router.get("/livez", summary="Whether the process responds")
async def livez() -> Live:
    """Contacts no other service."""
    return Live()


@router.get(
    "/readyz",
    response_model=Ready,
    summary="Whether submits can be accepted",
    responses={503: {"model": Ready, "description": "A required service does not answer."}},
)
def readyz(redis: RedisOf, bucket: BucketOf, publisher: PublisherOf, status: StatusOf) -> Response:
    """Checks Redis, the bucket and the broker in parallel."""
    probes: dict[str, Callable[[], object]] = {
        "redis": redis.ping,
        "bucket": bucket.check,
        "broker": publisher.check,
    }
    with ThreadPoolExecutor(len(probes)) as pool:
        checks = dict(zip(probes, pool.map(lambda name: _check(name, probes[name]), probes), strict=True))
    ready = all(check.ok for check in checks.values())
    workers = _edit_workers(status) if checks["redis"].ok else None
    return answer(Ready(ready=ready, checks=checks, edit_workers=workers), 200 if ready else 503)


def _check(name: str, probe: Callable[[], object]) -> Check:
    try:
        probe()
    except Exception as error:  # noqa: BLE001 - any error means that the service is not ready; it is logged
        log.warning("ready.check_failed", service=name, error=str(error))
        return Check(ok=False, message=f"does not answer ({type(error).__name__})")
    return Check(ok=True)


def _edit_workers(status: Status) -> int:
    return sum(EDITS in worker.queues for worker in status.workers())
