"""Read a JPEG. Pillow's draft mode decodes an eighth of the size, yet libjpeg reads the whole stream."""

from jobs.images.decode import decode
from jobs.images.picture import Picture

SIGNATURE = b"\xff\xd8\xff"


def probe_jpeg(data: bytes, max_pixels: int) -> Picture:
    """Read a JPEG, see `probe`."""
    return decode(data, "JPEG", max_pixels)
