"""The description of a picture, and the checks that all formats share."""

import struct
from dataclasses import dataclass

from PIL import ExifTags, Image

from jobs.foundation.errors import InputRejected

BROKEN_EXIF = (OSError, SyntaxError, ValueError, struct.error, IndexError, TypeError, KeyError)
"""What Pillow raises for EXIF data that it cannot read. Broken EXIF does not make a picture unreadable."""


@dataclass(frozen=True)
class Picture:
    """A complete picture.

    Attributes:
        media_type: `image/png`, `image/jpeg` or `image/webp`, from the bytes.
        width, height: as stored, in pixels; the EXIF orientation is not applied.
        exif_rotated: the EXIF orientation swaps the sides: viewers show it `height` wide and `width` high.
    """

    media_type: str
    width: int
    height: int
    exif_rotated: bool


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Check the number of pixels.

    Raises:
        InputRejected: there are more than `max_pixels`.
    """
    if width * height > max_pixels:
        raise InputRejected(f"the picture has {width}x{height} pixels: the maximum is {max_pixels:,}")


def exif_swaps_sides(exif: Image.Exif) -> bool:
    """Whether the orientation is one of the four that swap width and height."""
    orientation = exif.get(ExifTags.Base.Orientation)
    return isinstance(orientation, int) and 5 <= orientation <= 8
