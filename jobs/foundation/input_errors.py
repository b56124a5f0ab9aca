"""Pydantic's findings about what was submitted, as errors that name the submitter's fields."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from jobs.foundation.errors import FieldError, InvalidInput

M = TypeVar("M", bound=BaseModel)


def validated(validate: Callable[..., M], *args: Any, **options: Any) -> M:
    """The record that `validate(*args, **options)` returns, where `validate` is a pydantic model's own method.

    Raises:
        InvalidInput: naming every field that is unknown or has an invalid value.
    """
    try:
        return validate(*args, **options)
    except ValidationError as error:
        raise invalid_input(error.errors()) from error


def invalid_input(faults: Sequence[Any], *, skip: int = 0) -> InvalidInput:
    """Pydantic's findings (`ValidationError.errors()`) in our words. They never repeat the submitted value.

    Args:
        faults: as pydantic, or FastAPI, lists them.
        skip: leading parts of each location that are not the submitter's (`query`, `body`).
    """
    found = []
    for fault in faults:
        name = ".".join(str(part) for part in fault["loc"][skip:] if part != "[key]")
        message = str(fault["msg"]).removeprefix("Value error, ").removeprefix("Input ")
        if fault["type"] == "extra_forbidden":
            message = "no such field"
        found.append(FieldError(name, message, str(fault["type"])))
    return InvalidInput(*found)
