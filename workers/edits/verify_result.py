"""Whether what an endpoint delivered is the edit that was asked for."""

from jobs.catalogue.catalogue import ModelSpec
from jobs.foundation.errors import BadResult, InputRejected
from jobs.images.picture import Picture
from jobs.images.probe import probe

MAX_PIXELS = 1 << 28
"""Pixels of a result that is still read: 16384 x 16384."""


def verify(data: bytes, given: Picture | None, model: ModelSpec) -> Picture:
    """Hold a result to what makes it one: a whole picture, and of its input's size where the model keeps that.

    An endpoint may have applied the EXIF orientation of its input: then the sides are swapped, and that is right too.

    Args:
        data: the result's bytes; the type is told from them.
        given: the input; None where its size is not known, which then is not compared.
        model: that made it.

    Raises:
        BadResult: it is none.
    """
    try:
        result = probe(data, max_pixels=MAX_PIXELS)
    except InputRejected as error:
        message = error.message.replace("the picture", "the result", 1)
        raise BadResult(f"model {model.name} delivered no picture: {message}", maybe_billed=True) from error
    if given is None or not model.keeps_size:
        return result
    size, wanted = (result.width, result.height), (given.width, given.height)
    swapped = size == wanted[::-1] and (given.exif_rotated or result.exif_rotated)
    if size != wanted and not swapped:
        raise BadResult(
            f"model {model.name} delivered {size[0]}x{size[1]} for an input of {wanted[0]}x{wanted[1]}",
            maybe_billed=True,
        )
    return result
