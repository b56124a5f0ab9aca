"""Checks that a result is an edit of the input."""

from jobs.catalogue.catalogue import ModelSpec
from jobs.foundation.errors import BadResult, InputRejected
from jobs.images.picture import Picture
from jobs.images.probe import probe

MAX_PIXELS = 1 << 28
"""The most pixels that a result may have: 16384 x 16384."""


def verify(data: bytes, source: Picture | None, model: ModelSpec) -> Picture:
    """Check that a result is a whole picture, and that it has its input's size where the model keeps sizes.

    An endpoint may apply the EXIF orientation of its input. Then width and height are swapped, which is valid, too.

    Args:
        data: the result's bytes; they decide the media type.
        source: the input; None where its size is unknown, so that sizes are not compared.
        model: made the result.

    Raises:
        BadResult: the result is not a whole picture, or has the wrong size.
    """
    try:
        result = probe(data, max_pixels=MAX_PIXELS)
    except InputRejected as error:
        message = error.message.replace("the picture", "the result", 1)
        raise BadResult(f"model {model.name} delivered no valid picture: {message}", maybe_billed=True) from error
    if source is None or not model.keeps_size:
        return result
    size, wanted = (result.width, result.height), (source.width, source.height)
    swapped = size == wanted[::-1] and (source.exif_rotated or result.exif_rotated)
    if size != wanted and not swapped:
        raise BadResult(
            f"model {model.name} delivered {size[0]}x{size[1]} for an input of {wanted[0]}x{wanted[1]}",
            maybe_billed=True,
        )
    return result
