"""Thumbnails for contact sheets: before and after in one small JPEG, made while both pictures are in memory."""

import io

import structlog
from PIL import Image, ImageOps

from jobs.batches.results.contact_sheet import thumbnail_key
from jobs.foundation.errors import RetouchError
from jobs.foundation.ids import batch_of, row_of
from jobs.storage.bucket import Bucket

SIDE = 240
"""Pixels of the square that each of the two pictures is fitted into."""
_BACKGROUND = (236, 238, 241)

log = structlog.get_logger(__name__)


def put_thumbnail(bucket: Bucket, job_id: str, before: bytes | None, after: bytes) -> None:
    """Put the thumbnail of a batch's job into the bucket. A failure is logged: no edit depends on it.

    Args:
        bucket: where it goes.
        job_id: of a job of a batch; a single job has no thumbnail.
        before: the input; None where it is not in memory.
        after: the result.
    """
    batch_id, row = batch_of(job_id), row_of(job_id)
    if batch_id is None or row is None:
        return
    try:
        data = side_by_side(before, after)
        bucket.put(bucket.name, thumbnail_key(batch_id, row), data, media_type="image/jpeg")
    except (RetouchError, OSError, ValueError, Image.DecompressionBombError) as error:
        log.warning("thumbnail.not_made", job_id=job_id, error=str(error))


def side_by_side(before: bytes | None, after: bytes) -> bytes:
    """A JPEG, 480 pixels wide, with both pictures upright; its left half is empty without `before`.

    Raises:
        OSError, ValueError, PIL.Image.DecompressionBombError: a picture cannot be decoded.
    """
    pictures = [_fitted(data) if data is not None else None for data in (before, after)]
    height = max(picture.height for picture in pictures if picture is not None)
    strip = Image.new("RGB", (2 * SIDE, height), _BACKGROUND)
    for column, picture in enumerate(pictures):
        if picture is not None:
            left, top = column * SIDE + (SIDE - picture.width) // 2, (height - picture.height) // 2
            strip.paste(picture, (left, top), picture if picture.mode == "RGBA" else None)
    out = io.BytesIO()
    strip.save(out, "JPEG", quality=72)
    return out.getvalue()


def _fitted(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        picture.draft("RGB", (SIDE, SIDE))  # a JPEG is decoded at a fraction of its size
        picture.thumbnail((SIDE * 2, SIDE * 2), Image.Resampling.BOX, reducing_gap=1.0)
        upright = ImageOps.exif_transpose(picture)
        small = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    small.thumbnail((SIDE - 8, SIDE - 8), Image.Resampling.BILINEAR)
    return small
