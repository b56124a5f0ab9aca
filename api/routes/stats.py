"""`/v1/stats`: counts and rates of jobs and, for operators, the state of the fleet."""

from fastapi import APIRouter, Depends

from api.auth import CallerOf, authenticate
from api.context import StatsOf
from api.http import schema
from jobs.operations.stats import StatsReport

router = APIRouter(
    prefix="/v1/stats", tags=["stats"], dependencies=[Depends(authenticate)], responses=schema.problems(401, 503)
)


@router.get("", summary="Counts and rates")
def read_stats(stats: StatsOf, caller: CallerOf) -> StatsReport:
    """The caller's own counts under `tenant`; with an admin key also those of the whole fleet under `fleet`.

    `fleet` has models with their window, pace, counts, lanes and rates of the last minute and hour, the live workers,
    webhook deliveries, rows of manifests, cost, and Redis's memory.
    """
    return stats.report(caller.tenant, fleet=caller.admin)
