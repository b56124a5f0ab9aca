"""Lines of results files: JSONL and CSV."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jobs.batches.results.rows import Entry

COLUMNS = (
    "row",
    "custom_id",
    "state",
    "id",
    "output",
    "sha256",
    "bytes",
    "media_type",
    "width",
    "height",
    "seed",
    "reused",
    "error_code",
    "error_message",
    "retryable",
    "attempts",
    "cost_usd",
    "model",
    "image",
    "finished_at",
    "metadata",
)
_RUN_BY_SPREADSHEETS = ("=", "+", "-", "@", "\t", "\r")


def json_line(entry: Entry) -> bytes:
    """One line of JSONL."""
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def csv_lines(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The lines of a CSV file with a header row. It starts with a BOM, so that spreadsheets read it as UTF-8."""
    yield b"\xef\xbb\xbf" + csv_line(COLUMNS)
    for entry in entries:
        yield csv_line(_cells(entry))


def csv_line(cells: Iterable[object]) -> bytes:
    """One line of CSV; an apostrophe before a text keeps a spreadsheet from running it as a formula."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow([plain_cell(cell) for cell in cells])
    return text.getvalue().encode(errors="replace")


def plain_cell(cell: object) -> object:
    """The cell, escaped if a spreadsheet would take it for a formula (https://owasp.org/www-community/attacks/CSV_Injection)."""
    if isinstance(cell, str) and cell.startswith(_RUN_BY_SPREADSHEETS):
        return f"'{cell}"
    return "" if cell is None else cell


def _cells(entry: Entry) -> list[object]:
    output: Mapping[str, Any] = entry.get("output") or {}
    error: Mapping[str, Any] = entry.get("error") or {}
    values: dict[str, object] = {
        **{name: entry.get(name) for name in ("row", "custom_id", "state", "id", "cost_usd", "model", "finished_at")},
        **{name: output.get(name) for name in ("sha256", "bytes", "media_type", "width", "height", "seed")},
        "output": f"s3://{output['bucket']}/{output['key']}" if output else None,
        "reused": str(output["reused"]).lower() if output else None,
        "error_code": error.get("code"),
        "error_message": error.get("message"),
        "retryable": str(error["retryable"]).lower() if error else None,
        "attempts": len(entry.get("attempts", ())),
        "image": (entry.get("input") or {}).get("image"),
        "metadata": json.dumps(entry["metadata"], ensure_ascii=False) if entry.get("metadata") else None,
    }
    return [values[name] for name in COLUMNS]
