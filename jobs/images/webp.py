"""Read a WebP. The format has no checksums: only a full decode shows that the picture is complete."""

from jobs.images.decode import decode
from jobs.images.picture import Picture


def is_webp(data: bytes) -> bool:
    """Whether the bytes start like a WebP."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def probe_webp(data: bytes, max_pixels: int) -> Picture:
    """Read a WebP, see `probe`."""
    return decode(data, "WebP", max_pixels)
