"""`/v1/models`: the catalogue's models with their limits and state."""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, StringConstraints

from api.auth import authenticate, operator
from api.context import CatalogueOf, EditLoopOf, PlannerOf, StatusOf
from api.http import schema
from jobs.catalogue.catalogue import Catalogue
from jobs.catalogue.status import ModelStatus, Status
from jobs.foundation.errors import NotFound
from jobs.records.job_models import Record

router = APIRouter(
    prefix="/v1/models", tags=["models"], dependencies=[Depends(authenticate)], responses=schema.problems(401, 503)
)


class ModelList(BaseModel):
    """All models of the catalogue."""

    data: list[ModelStatus]
    next_cursor: None = None


@router.get("", summary="List the models with their limits and state")
def list_models(status: StatusOf) -> ModelList:
    """Each model with its limits, window, pace, counts of jobs, and the reason if it is parked."""
    return ModelList(data=status.models())


class Park(Record):
    """The reason why an operator parks a model."""

    reason: Annotated[str, StringConstraints(min_length=1, max_length=500)] = "parked by an operator"


@router.post(
    "/{name}/park",
    summary="Park a model",
    dependencies=[Depends(operator)],
    responses=schema.problems(403, 404),
)
def park_model(
    name: str, catalogue: CatalogueOf, status: StatusOf, planner: PlannerOf, park: Park | None = None
) -> ModelStatus:
    """Start no jobs of this model until it is resumed. Running jobs continue, queued jobs wait. Admin keys only."""
    _check_known(catalogue, name)
    planner.park(name, (park or Park()).reason)
    return _status_of(status, name)


@router.post(
    "/{name}/resume",
    summary="Resume a model",
    dependencies=[Depends(operator)],
    responses=schema.problems(403, 404),
)
def resume_model(
    name: str, catalogue: CatalogueOf, status: StatusOf, planner: PlannerOf, edit_loop: EditLoopOf
) -> ModelStatus:
    """Start the model's jobs again, whatever the reason for the park. Admin keys only."""
    _check_known(catalogue, name)
    planner.resume(name)
    edit_loop.dispatch()
    return _status_of(status, name)


def _check_known(catalogue: Catalogue, name: str) -> None:
    if name not in catalogue.models:
        raise NotFound(f"unknown model {name}; the catalogue has: {', '.join(catalogue.models)}")


def _status_of(status: Status, name: str) -> ModelStatus:
    return next(model for model in status.models() if model.name == name)
