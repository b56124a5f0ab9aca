"""Maps the columns of a table to the fields of a job by its header."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from jobs.foundation.errors import FieldError
from jobs.records.job_models import JobRequest

FIELDS = frozenset(JobRequest.model_fields) - {"metadata"}
REJECTED_PREFIX = "rejected_"
"""Prefix of the columns that a list of rejects adds; they are ignored when a corrected list is submitted."""
_PREFIX = "metadata."
_FORMULA_STARTS = frozenset("=+-@\t\r")


class ManifestFault(Exception):
    """A manifest cannot be read, or not to its end; the message is for its author."""


class Columns:
    """The columns of a table, in their order.

    Raises:
        ManifestFault: the header names no field, an unknown field, or a field twice.
    """

    def __init__(self, header: Sequence[object]) -> None:
        self._names = [_name(cell) for cell in header]
        named = [name for name in self._names if name]
        if not named:
            raise ManifestFault("the first row is empty: it must name the columns (custom_id, image, …)")
        self._is_reject_list = any(name.startswith(REJECTED_PREFIX) for name in named)
        for name in named:
            if name.startswith(REJECTED_PREFIX):
                continue
            if name not in FIELDS and not (name.startswith(_PREFIX) and len(name) > len(_PREFIX)):
                raise ManifestFault(_unknown(name))
            if named.count(name) > 1:
                raise ManifestFault(f"column {name!r} appears twice")

    @staticmethod
    def known(header: Iterable[object]) -> int:
        """How many of these cells name a field of a job."""
        names = {_name(cell) for cell in header}
        return sum(name in FIELDS or name.startswith(_PREFIX) for name in names)

    def fields_of(self, cells: Sequence[Any]) -> tuple[dict[str, Any], list[FieldError]]:
        """A row's fields without empty cells, and the faults of its shape."""
        fields: dict[str, Any] = {}
        metadata: dict[str, str] = {}
        faults = []
        for name, cell in zip(self._names, cells, strict=False):
            if (
                name.startswith(REJECTED_PREFIX)
                or cell is None
                or cell == ""
                or (isinstance(cell, str) and not cell.strip())
            ):
                continue
            if self._is_reject_list and isinstance(cell, str) and cell[:1] == "'" and cell[1:2] in _FORMULA_STARTS:
                cell = cell[1:]  # noqa: PLW2901 - the list of rejects added the apostrophe
            if not name:
                faults.append(FieldError("", f"{str(cell)[:40]!r} is in a column without a name", "extra"))
            elif name.startswith(_PREFIX):
                metadata[name.removeprefix(_PREFIX)] = str(cell)
            else:
                fields[name] = cell.strip() if isinstance(cell, str) and name != "prompt" else cell
        if any(str(cell).strip() for cell in cells[len(self._names) :]):
            faults.append(FieldError("", f"{len(cells)} cells, and the header has {len(self._names)}", "extra"))
        if metadata:
            fields["metadata"] = metadata
        return fields, faults


def _name(cell: object) -> str:
    text = str(cell if cell is not None else "").strip().lstrip("\ufeff").strip()
    if text.lower().startswith(_PREFIX):
        return _PREFIX + text[len(_PREFIX) :]
    return text.lower().replace(" ", "_")


def _unknown(name: str) -> str:
    shown = name[:60]
    near = get_close_matches(name, FIELDS, 1, 0.75)
    hint = f"did you mean {near[0]!r}?" if near else f"to store it as metadata, name the column metadata.{shown}"
    return f"the first row must name the columns, and {shown!r} is not a field of a job: {hint}"
