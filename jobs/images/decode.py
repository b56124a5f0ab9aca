"""Decode a picture with Pillow, to check that it is complete."""

import io
import struct

from PIL import Image, UnidentifiedImageError

from jobs.foundation.errors import InputRejected
from jobs.images.picture import BROKEN_EXIF, Picture, check_pixels, exif_swaps_sides


def decode(data: bytes, name: str, max_pixels: int) -> Picture:
    """Decode a still picture of one format.

    Args:
        data: all its bytes.
        name: `JPEG` or `WebP`.
        max_pixels: maximum of width times height; checked before any pixel is decoded.

    Raises:
        InputRejected: the picture has too many pixels, is animated, truncated or broken.
    """
    pillow_format = name.upper()
    try:
        with Image.open(io.BytesIO(data), formats=(pillow_format,)) as image:
            width, height = image.size
            check_pixels(width, height, max_pixels)
            # A JPEG can contain further pictures (MPO). Viewers show the first one.
            if pillow_format == "WEBP" and getattr(image, "n_frames", 1) > 1:
                raise InputRejected("the picture is an animated WebP: send a still picture")
            rotated = _swaps_sides(image)
            image.draft(None, (1, 1))
            image.load()
    except UnidentifiedImageError as error:
        raise InputRejected(f"the picture starts like a {name}, but its header is invalid or truncated") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputRejected(f"the picture has too many pixels: the maximum is {max_pixels:,}") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, TypeError) as error:
        raise InputRejected(f"the {name} is truncated or broken: {error}") from error
    return Picture(f"image/{name.lower()}", width, height, rotated)


def _swaps_sides(image: Image.Image) -> bool:
    try:
        return exif_swaps_sides(image.getexif())
    except BROKEN_EXIF:
        return False
