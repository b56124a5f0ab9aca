"""The contact sheet of a batch: HTML pages with each picture before and after. A page needs no other file."""

import base64
from collections.abc import Callable, Iterable, Iterator
from html import escape
from itertools import islice

from jobs.batches.models import Batch
from jobs.batches.results.rows import BatchRows
from jobs.foundation.errors import EditFailure
from jobs.foundation.ids import row_of
from jobs.foundation.job_states import State
from jobs.records.job_models import Job
from jobs.storage.bucket import Bucket
from jobs.storage.object_keys import record_key

ITEMS_PER_PAGE = 100
MAX_ITEMS = 5000
"""Items of a sheet; `results.csv` has all of them."""
MAX_THUMBNAIL = 512 * 1024
STYLE = """\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem;background:#f4f5f7;color:#1c2026}
main{display:grid;grid-template-columns:repeat(auto-fill,minmax(340px,1fr));gap:1rem}
article{background:#fff;border:1px solid #dfe2e7;border-radius:10px;padding:.8rem;overflow:hidden}
img,.none{display:block;width:100%;aspect-ratio:8/3;object-fit:contain;background:#eceef1;border-radius:6px}
.none{display:grid;place-items:center;color:#68707a}
h2{font-size:1rem;margin:.5rem 0 0;overflow-wrap:anywhere}p{margin:.1rem 0;color:#68707a;overflow-wrap:anywhere}
nav a{margin-right:1rem}
@media(prefers-color-scheme:dark){body{background:#15181c;color:#e8eaed}article{background:#1e2227;border-color:#31363d}
img,.none{background:#262b31}}
"""


def thumbnail_key(batch_id: str, row: int) -> str:
    """The key of the thumbnail of a row, which shows before and after side by side."""
    return record_key(batch_id, f"thumbnails/{row:07d}.jpg")


def page_name(number: int) -> str:
    """The name of a page, from 1."""
    return "sheet.html" if number == 1 else f"sheet-{number:03d}.html"


class ContactSheet:
    """Writes the contact sheets of batches.

    Args:
        rows: reads the rows of batches.
        bucket: of the thumbnails and the sheets.
    """

    def __init__(self, rows: BatchRows, bucket: Bucket) -> None:
        self._rows = rows
        self._bucket = bucket

    def put(self, batch: Batch, check: Callable[[], None]) -> tuple[str, int]:
        """Write the sheet's pages; returns the `s3://` address of the first one, and their number."""
        total = min(batch.counts.total - batch.counts.rejected, MAX_ITEMS)
        pages = max(1, -(-total // ITEMS_PER_PAGE))
        jobs = self._rows.jobs(batch, chunk=ITEMS_PER_PAGE)
        for number in range(1, pages + 1):
            check()
            page_jobs = list(islice(jobs, ITEMS_PER_PAGE))
            text = "".join(self._page(batch, page_jobs, number, pages))
            key = record_key(batch.id, page_name(number))
            self._bucket.put(self._bucket.name, key, text.encode(), media_type="text/html; charset=utf-8")
        return f"s3://{self._bucket.name}/{record_key(batch.id, page_name(1))}", pages

    def _page(self, batch: Batch, jobs: Iterable[Job], number: int, pages: int) -> Iterator[str]:
        title = escape(batch.name or batch.id)
        links = (
            " ".join(f'<a href="{page_name(other)}">{other}</a>' for other in range(1, pages + 1)) if pages > 1 else ""
        )
        counts = ", ".join(f"{count} {name}" for name, count in batch.counts.model_dump().items() if count)
        yield (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
            f'<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
            f"<style>{STYLE}</style><h1>{title}</h1><p>{escape(batch.id)}: {escape(counts)}; "
            f"page {number} of {pages}, before | after</p><nav>{links}</nav><main>"
        )
        for job in jobs:
            yield self._card(batch, job)
        rest = batch.counts.total - batch.counts.rejected - MAX_ITEMS
        yield f"</main>{f'<p>and {rest:,} more: see results.csv</p>' if rest > 0 and number == pages else ''}</html>\n"

    def _card(self, batch: Batch, job: Job) -> str:
        name = escape(job.custom_id or job.id)
        caption = escape(job.error.message if job.error else job.prompt or "")
        picture = f'<div class="none">{escape(str(job.state))}</div>'
        if job.state is State.SUCCEEDED:
            try:
                key = thumbnail_key(batch.id, row_of(job.id) or 0)
                data = self._bucket.get(self._bucket.name, key, max_bytes=MAX_THUMBNAIL)
                source = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
                picture = f'<img loading="lazy" alt="{name}, before and after" src="{source}">'
            except EditFailure:
                picture = '<div class="none">no thumbnail</div>'
        return f"<article>{picture}<h2>{name}</h2><p>{caption}</p></article>"
