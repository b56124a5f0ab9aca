"""Pydantic's errors about a request, converted to InvalidInput."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from jobs.foundation.errors import FieldError, InvalidInput

M = TypeVar("M", bound=BaseModel)


def validated(validate: Callable[..., M], *args: Any, **options: Any) -> M:
    """Call `validate`, a validation method of a pydantic model, and return its record.

    Raises:
        InvalidInput: naming every field that is unknown or has an invalid value.
    """
    try:
        return validate(*args, **options)
    except ValidationError as error:
        raise invalid_input(error.errors()) from error


def invalid_input(faults: Sequence[Any], *, skip: int = 0) -> InvalidInput:
    """Convert pydantic's errors (`ValidationError.errors()`). The messages do not repeat the submitted values.

    Args:
        faults: as pydantic or FastAPI lists them.
        skip: number of leading parts of each location that are not field names (`query`, `body`).
    """
    found = []
    for fault in faults:
        name = ".".join(str(part) for part in fault["loc"][skip:] if part != "[key]")
        message = str(fault["msg"]).removeprefix("Value error, ").removeprefix("Input ")
        if fault["type"] == "extra_forbidden":
            message = "no such field"
        found.append(FieldError(name, message, str(fault["type"])))
    return InvalidInput(*found)
