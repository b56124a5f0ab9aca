"""An ended batch's record in the bucket, beside its pictures: it outlives the records of the jobs."""

import tempfile
from collections.abc import Callable, Iterator
from typing import IO

from jobs.batch_models import Batch, Kept
from jobs.bucket_streams import PIECE, put_pieces
from jobs.chores import Held
from jobs.domain import DAY_S, Domain
from jobs.object_names import record_key
from jobs.result_rejects import reject_lines
from jobs.result_sheet import put_sheet
from jobs.results import csv_lines, entries, json_line

KNOWN_FOR = 12
"""How many times longer than its jobs a batch is known."""


def keep_record(domain: Domain, batch: Batch, held: Held) -> bool:
    """Write `results.jsonl`, `results.csv`, what was refused, and the contact sheet. Doing it again changes nothing.

    Returns:
        False where the batch goes on again, or the chore is another's by now.

    Raises:
        jobs.chores.Lost: it is another's.
        Unavailable, redis.exceptions.RedisError: a store does not answer.
    """
    kept = Kept(jsonl="", csv="")
    if batch.counts.total:
        with tempfile.TemporaryFile() as lines, tempfile.TemporaryFile() as table:
            for line in csv_lines(_copied(domain, batch, lines, held.check)):
                table.write(line)
            kept = Kept(
                jsonl=_put(domain, batch, "results.jsonl", lines, "application/jsonl"),
                csv=_put(domain, batch, "results.csv", table, "text/csv; charset=utf-8"),
            )
    if batch.counts.rejected:
        key = record_key(batch.id, "rejects.csv")
        pieces = reject_lines(domain, batch)
        put_pieces(domain.bucket, domain.bucket.name, key, pieces, media_type="text/csv; charset=utf-8")
        kept = kept.model_copy(update={"rejects": f"s3://{domain.bucket.name}/{key}"})
    if batch.sheet:
        first, pages = put_sheet(domain, batch, held.check)
        kept = kept.model_copy(update={"sheet": first, "sheet_pages": pages})
    known_s = KNOWN_FOR * domain.settings.retention_days * DAY_S
    return domain.batches.kept(batch.id, held.number, kept.model_dump_json(), known_s)


def _copied(domain: Domain, batch: Batch, lines: IO[bytes], check: Callable[[], None]) -> Iterator[dict[str, object]]:
    """The entries, each written as JSONL in passing: one reading of the store serves both files."""
    for number, entry in enumerate(entries(domain, batch)):
        if number % 500 == 0:
            check()
        lines.write(json_line(entry))
        yield entry


def _put(domain: Domain, batch: Batch, name: str, file: IO[bytes], media_type: str) -> str:
    file.seek(0)
    key = record_key(batch.id, name)
    put_pieces(domain.bucket, domain.bucket.name, key, iter(lambda: file.read(PIECE), b""), media_type=media_type)
    return f"s3://{domain.bucket.name}/{key}"
