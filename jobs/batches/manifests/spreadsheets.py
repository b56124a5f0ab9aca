"""Reads spreadsheets with calamine: the first sheet that is not empty."""

import zipfile
from collections.abc import Iterator
from datetime import date, datetime, time
from typing import IO, Any

from python_calamine import CalamineError, CalamineWorkbook, load_workbook

from jobs.batches.manifests.columns import Columns, ManifestFault
from jobs.foundation.errors import FieldError

MAX_BYTES = 64 * 1024 * 1024
"""A sheet is in memory while it is read; a larger one must be sent as CSV."""
MAX_UNPACKED = 512 * 1024 * 1024


def read_sheet(file: IO[bytes]) -> Iterator[tuple[int, dict[str, Any], list[FieldError]]]:
    """The rows of a workbook's first sheet: sheet row, fields, faults.

    Raises:
        ManifestFault: it is not a workbook, is too large, or has no header.
    """
    _check_size(file)
    try:
        book: CalamineWorkbook = load_workbook(file)
        sheets = (book.get_sheet_by_name(name) for name in book.sheet_names)
        sheet = next((sheet for sheet in sheets if sheet.height), None)
    except (CalamineError, OSError, ValueError) as error:
        raise ManifestFault(
            "the manifest is an archive and not an XLSX workbook: send the CSV or JSONL file that is inside it"
        ) from error
    if sheet is None:
        raise ManifestFault("the workbook is empty")
    first = (sheet.start or (0, 0))[0] + 1
    rows = iter(sheet.iter_rows())
    columns = None
    for number, cells in enumerate(rows, first):
        values = [_plain(cell) for cell in cells]
        if not any(value not in {None, ""} for value in values):
            continue
        if columns is None:
            columns = Columns(values)
            continue
        fields, faults = columns.fields_of(values)
        yield number, fields, faults


def _check_size(file: IO[bytes]) -> None:
    size = file.seek(0, 2)
    file.seek(0)
    if size > MAX_BYTES:
        raise ManifestFault(f"the workbook has {size:,} bytes: over {MAX_BYTES:,}, save it as CSV")
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError):
        unpacked = 0  # An old .xls or a broken file: calamine reports it.
    if unpacked > MAX_UNPACKED:
        raise ManifestFault(f"the workbook has {unpacked:,} bytes unpacked: over {MAX_UNPACKED:,}, save it as CSV")
    file.seek(0)


def _plain(cell: Any) -> Any:
    """A cell as a CSV manifest has it: whole numbers without a point, moments as ISO 8601."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, datetime | date | time):
        return cell.isoformat()
    return cell if isinstance(cell, str) else str(cell)
