"""Reads the results of a batch: an entry for each row, in manifest order, in chunks."""

import json
import time
from collections.abc import Iterator
from typing import Any

from jobs.batches.commands import Batches
from jobs.batches.models import ENDED, Batch, Reject
from jobs.edits.reader import JobReader
from jobs.foundation.ids import batch_job_id, row_of
from jobs.foundation.job_states import State
from jobs.records.job_models import Job
from jobs.storage.bucket import Bucket
from jobs.storage.object_keys import parse_s3_url
from jobs.storage.streams import read_pieces

CHUNK = 500
REJECTED = "rejected"
Entry = dict[str, Any]


class BatchRows:
    """Reads the rows of batches.

    Args:
        batches: their records.
        reader: reads their jobs.
        bucket: where the results of old batches are.
        retention_s: how long a finished job's record is kept, in seconds.
    """

    def __init__(self, batches: Batches, reader: JobReader, bucket: Bucket, *, retention_s: float) -> None:
        self._batches = batches
        self._reader = reader
        self._bucket = bucket
        self._retention_s = retention_s

    def entries(self, batch: Batch, *, state: str | None = None) -> Iterator[Entry]:
        """An entry for each row: the job as the API shows it with its row number, or the reject with its errors.

        If the records of an old batch have expired, its saved results are read from the bucket.

        Args:
            batch: the batch.
            state: only entries of this state of a job, or `rejected`.
        """
        entries = self._saved(batch) if self._is_old(batch) else self._stored(batch, state)
        return (entry for entry in entries if state is None or entry["state"] == state)

    def _stored(self, batch: Batch, state: str | None) -> Iterator[Entry]:
        if state == REJECTED:
            yield from (_reject_entry(reject) for reject in self._batches.rejects(batch.id))
            return
        rejects = self._batches.rejects(batch.id) if state is None else iter(())
        reject = next(rejects, None)
        for job in self.jobs(batch):
            row = row_of(job.id) or 0
            while reject is not None and reject.row < row:
                yield _reject_entry(reject)
                reject = next(rejects, None)
            yield {"row": row, **job.model_dump(mode="json")}
        while reject is not None:
            yield _reject_entry(reject)
            reject = next(rejects, None)

    def jobs(self, batch: Batch, *, chunk: int = CHUNK) -> Iterator[Job]:
        """A batch's jobs in the order of their rows, read in chunks."""
        last = int(self._batches.record(batch.id).get("row", 0))
        for first in range(1, last + 1, chunk):
            rows = range(first, min(first + chunk, last + 1))
            yield from self._reader.get_many(batch.tenant, [batch_job_id(batch.id, row) for row in rows])

    def _is_old(self, batch: Batch) -> bool:
        if batch.results is None or batch.finished_at is None or batch.state not in ENDED:
            return False
        # The batch's first jobs may have ended right after it was created: their records expire first.
        return time.time() > batch.created_at.timestamp() + self._retention_s - 3600

    def _saved(self, batch: Batch) -> Iterator[Entry]:
        if batch.results is None:
            return
        rest = b""
        for piece in read_pieces(self._bucket, *parse_s3_url(batch.results.jsonl)):
            *lines, rest = (rest + piece).split(b"\n")
            yield from (json.loads(line) for line in lines if line)
        if rest:
            yield json.loads(rest)


def _reject_entry(reject: Reject) -> Entry:
    message = "; ".join(f"{e['field']}: {e['message']}" if e["field"] else e["message"] for e in reject.errors)
    return {
        "row": reject.row,
        "line": reject.line,
        "id": None,
        "state": REJECTED,
        "custom_id": reject.custom_id,
        "output": None,
        "error": {"code": REJECTED, "message": message, "retryable": False},
        "errors": reject.errors,
    }


def states() -> tuple[str, ...]:
    """The values that results can be filtered by."""
    return (*map(str, State), REJECTED)
