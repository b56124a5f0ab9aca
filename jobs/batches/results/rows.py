"""Results of a batch: a row an item, in manifest order, read from the store a stretch at a time."""

import csv
import io
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jobs.batches.commands import Batches
from jobs.batches.models import ENDED, Batch, Reject
from jobs.edits.reader import Store
from jobs.foundation.ids import batch_job_id, row_of
from jobs.foundation.job_states import State
from jobs.records.job_models import Job
from jobs.storage.bucket import Bucket
from jobs.storage.object_keys import parse_s3_url
from jobs.storage.streams import read_pieces

CHUNK = 500
REJECTED = "rejected"
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

Entry = dict[str, Any]


class BatchRows:
    """Reads the rows of batches.

    Args:
        batches: their records.
        reader: reads their jobs.
        bucket: where the results of old batches are.
        retention_s: how long a finished job's record is kept, in seconds.
    """

    def __init__(self, batches: Batches, reader: Store, bucket: Bucket, *, retention_s: float) -> None:
        self._batches = batches
        self._reader = reader
        self._bucket = bucket
        self._retention_s = retention_s

    def entries(self, batch: Batch, *, state: str | None = None) -> Iterator[Entry]:
        """Each item as an object: the job as the API shows it, with its row; a refused row with its errors.

        Where the records of an old batch have expired, they are read from what was kept in the bucket.

        Args:
            batch: whose.
            state: only those in this state of a job, or `rejected`.
        """
        found = self._saved(batch) if self._is_old(batch) else self._stored(batch, state)
        return (entry for entry in found if state is None or entry["state"] == state)

    def _stored(self, batch: Batch, state: str | None) -> Iterator[Entry]:
        if state == REJECTED:
            yield from (_refused(reject) for reject in self._batches.rejects(batch.id))
            return
        rejects = self._batches.rejects(batch.id) if state is None else iter(())
        reject = next(rejects, None)
        for job in self.jobs(batch):
            row = row_of(job.id) or 0
            while reject is not None and reject.row < row:
                yield _refused(reject)
                reject = next(rejects, None)
            yield {"row": row, **job.model_dump(mode="json")}
        while reject is not None:
            yield _refused(reject)
            reject = next(rejects, None)

    def jobs(self, batch: Batch, *, chunk: int = CHUNK) -> Iterator[Job]:
        """A batch's jobs in the order of their rows, read a stretch at a time."""
        last = int(self._batches.record(batch.id).get("row", 0))
        for first in range(1, last + 1, chunk):
            rows = range(first, min(first + chunk, last + 1))
            yield from self._reader.get_many(batch.tenant, [batch_job_id(batch.id, row) for row in rows])

    def _is_old(self, batch: Batch) -> bool:
        if batch.results is None or batch.finished_at is None or batch.state not in ENDED:
            return False
        # The first record may have expired as soon as its retention is over; the last one is as old as the batch's end.
        return time.time() > batch.created_at.timestamp() + self._retention_s - 3600

    def _saved(self, batch: Batch) -> Iterator[Entry]:
        if batch.results is None:
            return
        held = b""
        for piece in read_pieces(self._bucket, *parse_s3_url(batch.results.jsonl)):
            *lines, held = (held + piece).split(b"\n")
            yield from (json.loads(line) for line in lines if line)
        if held:
            yield json.loads(held)


def _refused(reject: Reject) -> Entry:
    told = "; ".join(f"{one['field']}: {one['message']}" if one["field"] else one["message"] for one in reject.errors)
    return {
        "row": reject.row,
        "line": reject.line,
        "id": None,
        "state": REJECTED,
        "custom_id": reject.custom_id,
        "output": None,
        "error": {"code": REJECTED, "message": told, "retryable": False},
        "errors": reject.errors,
    }


def json_line(entry: Entry) -> bytes:
    """One line of JSONL."""
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def csv_lines(found: Iterable[Entry]) -> Iterator[bytes]:
    """A CSV file with a header row, a line at a time; with a BOM, without which spreadsheets guess the encoding."""
    yield b"\xef\xbb\xbf" + csv_line(COLUMNS)
    for entry in found:
        yield csv_line(_cells(entry))


def csv_line(cells: Iterable[object]) -> bytes:
    """One line of CSV; texts that a spreadsheet would run are made plain ones by an apostrophe before them."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow([plain_cell(cell) for cell in cells])
    return text.getvalue().encode(errors="replace")


def plain_cell(cell: object) -> object:
    """The cell, unable to be a formula (https://owasp.org/www-community/attacks/CSV_Injection)."""
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


def states() -> tuple[str, ...]:
    """What results can be filtered by."""
    return (*map(str, State), REJECTED)
