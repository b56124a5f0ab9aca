"""`/v1/models`: what may be named, and how each model is doing."""

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from api import schema
from api.auth import authenticate
from api.context import DomainOf
from jobs.status import ModelStatus

router = APIRouter(
    prefix="/v1/models", tags=["models"], dependencies=[Depends(authenticate)], responses=schema.problems(401, 503)
)


class ModelList(BaseModel):
    """Every model of the catalogue."""

    data: list[ModelStatus]
    next_cursor: None = None


@router.get("", summary="List the models with their limits and state")
def list_models(domain: DomainOf) -> ModelList:
    """Each model with its limits, window, pace, in flight, waiting, parked and why."""
    return ModelList(data=domain.status.models())
