"""`/livez` and `/readyz`: for what supervises the process. No key is asked for and nothing is told of tenants."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import structlog
from fastapi import APIRouter, Response
from pydantic import BaseModel

from api.context import BrokerOf, BucketOf, RedisOf, StatusOf
from api.http.responses import answer
from jobs.catalogue.status import Status
from jobs.queueing.broker import EDITS

router = APIRouter(tags=["operations"])
log = structlog.get_logger(__name__)


class Live(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Check(BaseModel):
    """One thing the API needs."""

    ok: bool
    message: str | None = None


class Ready(BaseModel):
    """Whether submits can be accepted."""

    ready: bool
    checks: dict[str, Check]
    edit_workers: int | None
    """Live workers that take edits; None where Redis does not say. Jobs wait for one, so none is no fault here."""


@router.get("/livez", summary="Whether the process answers")
async def livez() -> Live:
    """Asks nothing of anything else."""
    return Live()


@router.get(
    "/readyz",
    response_model=Ready,
    summary="Whether submits can be accepted",
    responses={503: {"model": Ready, "description": "Something it needs does not answer."}},
)
def readyz(redis: RedisOf, bucket: BucketOf, broker: BrokerOf, status: StatusOf) -> Response:
    """Asks Redis, the bucket and the broker, all at once."""
    asked: dict[str, Callable[[], object]] = {
        "redis": redis.ping,
        "bucket": bucket.check,
        "broker": broker.check,
    }
    with ThreadPoolExecutor(len(asked)) as pool:
        checks = dict(zip(asked, pool.map(lambda name: _check(name, asked[name]), asked), strict=True))
    ready = all(check.ok for check in checks.values())
    workers = _edit_workers(status) if checks["redis"].ok else None
    return answer(Ready(ready=ready, checks=checks, edit_workers=workers), 200 if ready else 503)


def _check(name: str, ask: Callable[[], object]) -> Check:
    try:
        ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, the thing does not work, and the log says why
        log.warning("ready.not", what=name, error=str(error))
        return Check(ok=False, message=f"does not answer ({type(error).__name__})")
    return Check(ok=True)


def _edit_workers(status: Status) -> int:
    return sum(EDITS in worker.queues for worker in status.workers())
