"""Thumbnails for contact sheets: before and after in one small JPEG, made while both pictures are at hand."""

import io

import structlog
from PIL import Image, ImageOps

from jobs.batches.results.contact_sheet import thumbnail_key
from jobs.foundation.errors import RetouchError
from jobs.foundation.ids import batch_of, row_of
from jobs.wiring import Domain

SIDE = 240
"""Pixels of the square that each of the two is fitted into."""
_GROUND = (236, 238, 241)

log = structlog.get_logger(__name__)


def put_thumbnail(domain: Domain, job_id: str, before: bytes | None, after: bytes) -> None:
    """Put a job's thumbnail beside its result. A failure is logged: no edit depends on it."""
    batch_id, row = batch_of(job_id), row_of(job_id)
    if batch_id is None or row is None:
        return
    try:
        data = side_by_side(before, after)
        domain.bucket.put(domain.bucket.name, thumbnail_key(batch_id, row), data, media_type="image/jpeg")
    except (RetouchError, OSError, ValueError, Image.DecompressionBombError) as error:
        log.warning("thumbnail.not_made", job_id=job_id, error=str(error))


def side_by_side(before: bytes | None, after: bytes) -> bytes:
    """Both pictures, upright, on one strip 480 pixels wide; its left half is empty without `before`."""
    small = [_fitted(data) if data is not None else None for data in (before, after)]
    height = max(one.height for one in small if one is not None)
    strip = Image.new("RGB", (2 * SIDE, height), _GROUND)
    for place, one in enumerate(small):
        if one is not None:
            left, top = place * SIDE + (SIDE - one.width) // 2, (height - one.height) // 2
            strip.paste(one, (left, top), one if one.mode == "RGBA" else None)
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
