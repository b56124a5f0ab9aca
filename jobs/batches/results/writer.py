"""Writes the results of an ended batch into the bucket, where they outlive the records of its jobs."""

import tempfile
from collections.abc import Callable, Iterator
from typing import IO

from jobs.batches.commands import Batches
from jobs.batches.models import Batch, SavedResults
from jobs.batches.results.contact_sheet import ContactSheet
from jobs.batches.results.lines import csv_lines, json_line
from jobs.batches.results.rejects import RejectFiles
from jobs.batches.results.rows import BatchRows
from jobs.queueing.background_tasks import TaskLease
from jobs.storage.bucket import Bucket
from jobs.storage.object_keys import record_key
from jobs.storage.streams import PIECE, put_pieces

RETENTION_FACTOR = 12
"""The record of a batch is kept this many times longer than the records of its jobs."""


class ResultWriter:
    """Writes the results of ended batches into the bucket.

    Args:
        rows: reads the rows of batches.
        rejects: writes the rejects.
        sheet: writes contact sheets.
        batches: their records.
        bucket: where the results go.
        retention_s: how long a finished job's record is kept, in seconds.
    """

    def __init__(
        self,
        rows: BatchRows,
        rejects: RejectFiles,
        sheet: ContactSheet,
        *,
        batches: Batches,
        bucket: Bucket,
        retention_s: float,
    ) -> None:
        self._rows = rows
        self._rejects = rejects
        self._sheet = sheet
        self._batches = batches
        self._bucket = bucket
        self._retention_s = retention_s

    def write(self, batch: Batch, lease: TaskLease) -> bool:
        """Write `results.jsonl`, `results.csv`, the rejects and the contact sheet. A second call changes nothing.

        Returns:
            False if the batch is running again, or another worker has claimed the task.

        Raises:
            jobs.queueing.background_tasks.LeaseLost: another worker has claimed the task.
            Unavailable, redis.exceptions.RedisError: a store does not answer.
        """
        results = SavedResults(jsonl="", csv="")
        if batch.counts.total:
            with tempfile.TemporaryFile() as lines, tempfile.TemporaryFile() as table:
                for line in csv_lines(self._written(batch, lines, lease.check)):
                    table.write(line)
                results = SavedResults(
                    jsonl=self._put(batch, "results.jsonl", lines, "application/jsonl"),
                    csv=self._put(batch, "results.csv", table, "text/csv; charset=utf-8"),
                )
        if batch.counts.rejected:
            key = record_key(batch.id, "rejects.csv")
            pieces = self._rejects.csv_lines(batch)
            put_pieces(self._bucket, self._bucket.name, key, pieces, media_type="text/csv; charset=utf-8")
            results = results.model_copy(update={"rejects": f"s3://{self._bucket.name}/{key}"})
        if batch.sheet:
            first, pages = self._sheet.put(batch, lease.check)
            results = results.model_copy(update={"sheet": first, "sheet_pages": pages})
        retention_s = RETENTION_FACTOR * self._retention_s
        return self._batches.record_results(batch.id, lease.number, results, retention_s)

    def _written(self, batch: Batch, lines: IO[bytes], check: Callable[[], None]) -> Iterator[dict[str, object]]:
        """The entries, each written to `lines` as JSONL: the store is read once for both files."""
        for number, entry in enumerate(self._rows.entries(batch)):
            if number % 500 == 0:
                check()
            lines.write(json_line(entry))
            yield entry

    def _put(self, batch: Batch, name: str, file: IO[bytes], media_type: str) -> str:
        file.seek(0)
        key = record_key(batch.id, name)
        put_pieces(self._bucket, self._bucket.name, key, iter(lambda: file.read(PIECE), b""), media_type=media_type)
        return f"s3://{self._bucket.name}/{key}"
