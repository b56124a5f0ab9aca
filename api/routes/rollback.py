"""`POST /v1/batches/{id}/rollback`: a batch's output keys go back to what lay under them before."""

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
    summary="Point a batch's output keys back",
    description=(
        "Of a batch with `supersede` that has ended: each key that still holds its result gets the version before, and "
        "the result is kept beside it. It goes on in the background; `rollback` says how far. Asking again is harmless."
    ),
    responses=schema.problems(404, 409),
)
def rollback(rollbacks: RollbacksOf, publisher: TaskPublisherOf, caller: CallerOf, batch_id: BatchId) -> Response:
    """Begin it, or say how far it is."""
    batch = rollbacks.begin(caller.tenant, batch_id)
    publisher.publish_due()
    return answer(batch, 202)
