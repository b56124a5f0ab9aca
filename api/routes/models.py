"""`/v1/models`: what may be named, and how each model is doing."""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, StringConstraints

from api.auth import authenticate, operator
from api.context import BrokerOf, CatalogueOf, PlannerOf, StatusOf
from api.http import schema
from jobs.catalogue.catalogue import Catalogue
from jobs.catalogue.status import ModelStatus, Status
from jobs.foundation.errors import NotFound
from jobs.records.job_models import Record

router = APIRouter(
    prefix="/v1/models", tags=["models"], dependencies=[Depends(authenticate)], responses=schema.problems(401, 503)
)


class ModelList(BaseModel):
    """Every model of the catalogue."""

    data: list[ModelStatus]
    next_cursor: None = None


@router.get("", summary="List the models with their limits and state")
def list_models(status: StatusOf) -> ModelList:
    """Each model with its limits, window, pace, in flight, waiting, parked and why."""
    return ModelList(data=status.models())


class Park(Record):
    """Why an operator sets a model aside."""

    reason: Annotated[str, StringConstraints(min_length=1, max_length=500)] = "parked by an operator"


@router.post(
    "/{name}/park",
    summary="Set a model aside",
    dependencies=[Depends(operator)],
    responses=schema.problems(403, 404),
)
def park_model(
    name: str, catalogue: CatalogueOf, status: StatusOf, planner: PlannerOf, park: Park | None = None
) -> ModelStatus:
    """Nothing of it starts until it is resumed; what runs goes on, its jobs stay on their lanes. Admin keys only."""
    _check_known(catalogue, name)
    planner.park(name, (park or Park()).reason)
    return _status_of(status, name)


@router.post(
    "/{name}/resume",
    summary="Take a model up again",
    dependencies=[Depends(operator)],
    responses=schema.problems(403, 404),
)
def resume_model(
    name: str, catalogue: CatalogueOf, status: StatusOf, planner: PlannerOf, broker: BrokerOf
) -> ModelStatus:
    """Whatever it was parked for, its jobs start at once. Admin keys only."""
    _check_known(catalogue, name)
    planner.resume(name)
    broker.dispatch()
    return _status_of(status, name)


def _check_known(catalogue: Catalogue, name: str) -> None:
    if name not in catalogue.models:
        raise NotFound(f"there is no model {name}; there is: {', '.join(catalogue.models)}")


def _status_of(status: Status, name: str) -> ModelStatus:
    return next(model for model in status.models() if model.name == name)
