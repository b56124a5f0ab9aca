"""Files of rejects with their rows, so that a user can correct them and submit only those."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import closing
from typing import IO, Any

from jobs.batches.commands import Batches
from jobs.batches.manifests.columns import FIELDS, REJECTED_PREFIX, ManifestFault
from jobs.batches.manifests.reader import MAX_FIELD, Row, read_rows
from jobs.batches.models import Batch, Reject
from jobs.batches.results.lines import csv_line
from jobs.foundation.errors import NotFound
from jobs.storage.bucket import Bucket
from jobs.storage.object_keys import manifest_key
from jobs.storage.streams import read_pieces

REJECT_COLUMNS = tuple(f"{REJECTED_PREFIX}{name}" for name in ("line", "field", "reason"))
"""Columns that come before the row's own; the manifest reader ignores them."""
MAX_COLUMNS = 200


class RejectFiles:
    """Writes the rejects of batches, each with the row as it was submitted.

    Args:
        batches: their records.
        bucket: where their manifests are.
    """

    def __init__(self, batches: Batches, bucket: Bucket) -> None:
        self._batches = batches
        self._bucket = bucket

    def csv_lines(self, batch: Batch) -> Iterator[bytes]:
        """The rejects as CSV: line, field and reason, then the row as it was submitted."""
        with tempfile.TemporaryFile() as manifest:
            self._fetch(batch, manifest)
            columns: dict[str, None] = {}
            for _, fields in self._pairs(batch, manifest):
                for name in _flat(fields):
                    if len(columns) < MAX_COLUMNS:
                        columns[name] = None
            order = sorted(columns, key=lambda name: (name != "custom_id", name != "image", name not in FIELDS, name))
            yield b"\xef\xbb\xbf" + csv_line([*REJECT_COLUMNS, *order])
            for reject, fields in self._pairs(batch, manifest):
                flat = _flat(fields)
                names = "; ".join(dict.fromkeys(error["field"] for error in reject.errors if error["field"]))
                reasons = "; ".join(error["message"] for error in reject.errors)
                yield csv_line([str(reject.line), names, reasons, *(flat.get(name, "") for name in order)])

    def json_lines(self, batch: Batch) -> Iterator[bytes]:
        """The same as JSONL: row, line, custom_id, errors and the row's fields."""
        with tempfile.TemporaryFile() as manifest:
            self._fetch(batch, manifest)
            for reject, fields in self._pairs(batch, manifest):
                text = json.dumps({**reject.model_dump(), "fields": fields}, ensure_ascii=False)
                yield text.encode(errors="replace") + b"\n"

    def _fetch(self, batch: Batch, manifest: IO[bytes]) -> None:
        try:
            for piece in read_pieces(self._bucket, self._bucket.name, manifest_key(batch.tenant, batch.id)):
                manifest.write(piece)
        except NotFound:
            return  # A prefix has no manifest, and a user may have deleted it: the reasons are written without rows.

    def _pairs(self, batch: Batch, manifest: IO[bytes]) -> Iterator[tuple[Reject, dict[str, Any]]]:
        """Each reject with the fields of its row; both are in the order of rows."""
        with closing(read_rows(manifest)) as rows:
            row: Row | None = None
            for reject in self._batches.rejects(batch.id):
                try:
                    while row is None or row.number < reject.row:
                        row = next(rows)
                except (StopIteration, ManifestFault):
                    row = Row(reject.row, reject.line, {"custom_id": reject.custom_id} if reject.custom_id else {})
                yield reject, row.fields if row.number == reject.row else {}


def _flat(fields: dict[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in fields.items():
        if name == "metadata" and isinstance(value, dict):
            flat |= {f"metadata.{entry}": _text(text) for entry, text in value.items()}
        else:
            flat[name] = _text(value)
    return flat


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_FIELD else text[: MAX_FIELD - 1] + "…"
