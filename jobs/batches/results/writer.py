"""An ended batch's record in the bucket, beside its pictures: it outlives the records of the jobs."""

import tempfile
from collections.abc import Callable, Iterator
from typing import IO

from jobs.batches.commands import Batches
from jobs.batches.models import Batch, SavedResults
from jobs.batches.results.contact_sheet import ContactSheet
from jobs.batches.results.rejects import RejectFiles
from jobs.batches.results.rows import BatchRows, csv_lines, json_line
from jobs.queueing.background_tasks import Held
from jobs.storage.bucket import Bucket
from jobs.storage.object_keys import record_key
from jobs.storage.streams import PIECE, put_pieces

RETENTION_FACTOR = 12
"""How many times longer than its jobs a batch is known."""


class ResultWriter:
    """Writes the results of ended batches into the bucket.

    Args:
        rows: reads the rows of batches.
        rejects: writes refused rows.
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

    def write(self, batch: Batch, held: Held) -> bool:
        """Write `results.jsonl`, `results.csv`, the rejects and the contact sheet. A second call changes nothing.

        Returns:
            False where the batch goes on again, or the chore is another's by now.

        Raises:
            jobs.queueing.background_tasks.Lost: it is another's.
            Unavailable, redis.exceptions.RedisError: a store does not answer.
        """
        kept = SavedResults(jsonl="", csv="")
        if batch.counts.total:
            with tempfile.TemporaryFile() as lines, tempfile.TemporaryFile() as table:
                for line in csv_lines(self._copied(batch, lines, held.check)):
                    table.write(line)
                kept = SavedResults(
                    jsonl=self._put(batch, "results.jsonl", lines, "application/jsonl"),
                    csv=self._put(batch, "results.csv", table, "text/csv; charset=utf-8"),
                )
        if batch.counts.rejected:
            key = record_key(batch.id, "rejects.csv")
            pieces = self._rejects.csv_lines(batch)
            put_pieces(self._bucket, self._bucket.name, key, pieces, media_type="text/csv; charset=utf-8")
            kept = kept.model_copy(update={"rejects": f"s3://{self._bucket.name}/{key}"})
        if batch.sheet:
            first, pages = self._sheet.put(batch, held.check)
            kept = kept.model_copy(update={"sheet": first, "sheet_pages": pages})
        known_s = RETENTION_FACTOR * self._retention_s
        return self._batches.record_results(batch.id, held.number, kept.model_dump_json(), known_s)

    def _copied(self, batch: Batch, lines: IO[bytes], check: Callable[[], None]) -> Iterator[dict[str, object]]:
        """The entries, each written as JSONL in passing: one reading of the store serves both files."""
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
