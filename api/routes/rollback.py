"""`POST /v1/batches/{id}/rollback`: restore the previous objects under a batch's output keys."""

from fastapi import APIRouter, Depends, Response

from api.auth import CallerOf, authenticate
from api.context import RollbacksOf, TaskPublisherOf
from api.http import schema
from api.http.responses import answer
from api.routes.batches import BatchId
from jobs.batches.models import Batch

router = APIRouter(
    prefix="/v1/batches", tags=["batches"], dependencies=[Depends(authenticate)], responses=schema.problems(401, 503)
)


@router.post(
    "/{batch_id}/rollback",
    status_code=202,
    response_model=Batch,
    summary="Restore the previous objects of a batch's output keys",
    description=(
        "For a batch with `supersede` that has ended: each key that still has the batch's result gets its previous "
        "version, and the result is kept as a version. The rollback runs in the background and is idempotent; "
        "`rollback` has its progress."
    ),
    responses=schema.problems(404, 409),
)
def rollback(rollbacks: RollbacksOf, publisher: TaskPublisherOf, caller: CallerOf, batch_id: BatchId) -> Response:
    """Start the rollback, or return its progress."""
    batch = rollbacks.begin(caller.tenant, batch_id)
    publisher.publish_due()
    return answer(batch, 202)
