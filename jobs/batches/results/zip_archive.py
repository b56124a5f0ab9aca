"""A batch's pictures as one ZIP, written while it is sent: no part of it is on disk, and one picture in memory."""

from collections.abc import Iterator
from datetime import UTC, datetime

from zipstream import ZIP_STORED, ZipStream

from jobs.batches.models import Batch
from jobs.batches.results.rows import BatchRows
from jobs.foundation.errors import NotFound
from jobs.foundation.job_states import State
from jobs.foundation.media_types import EXTENSIONS
from jobs.records.job_models import Job, Output
from jobs.records.output_key import key_part
from jobs.storage.bucket import Bucket
from jobs.storage.streams import read_pieces


def archive(rows: BatchRows, bucket: Bucket, batch: Batch) -> Iterator[bytes]:
    """The bytes of the archive: the picture of each succeeded item, named by its `custom_id`."""
    stream = ZipStream(compress_type=ZIP_STORED)
    for job in rows.jobs(batch, chunk=100):
        if job.state is not State.SUCCEEDED or job.output is None:
            continue
        stream.add(_pieces(bucket, job.output), file_name(job))
        yield from stream.all_files()
    stream.comment = f"{batch.id} {datetime.now(UTC).isoformat(timespec='seconds')}"
    yield from stream.finalize()


def file_name(job: Job) -> str:
    """The file name of a job's picture, unique within its batch."""
    stem = key_part(job.custom_id) if job.custom_id else job.id
    extension = EXTENSIONS.get(job.output.media_type, "bin") if job.output else "bin"
    return f"{stem}.{extension}"


def _pieces(bucket: Bucket, output: Output) -> Iterator[bytes]:
    try:
        yield from read_pieces(bucket, output.bucket, output.key)
    except NotFound:
        return  # The user has deleted it: the archive has an empty entry, and its other entries are complete.
