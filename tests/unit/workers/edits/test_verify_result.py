"""The checks of a result: a whole picture of the right size."""

import io

import pytest
from PIL import Image

from jobs.catalogue.catalogue import load_catalogue
from jobs.foundation.errors import BadResult
from jobs.images.picture import Picture
from workers.edits.verify_result import verify

KEEPS = load_catalogue().get(None)
RESIZES = KEEPS.model_copy(update={"keeps_size": False})
UPRIGHT = Picture("image/jpeg", 60, 40, exif_rotated=False)
ROTATED = Picture("image/jpeg", 60, 40, exif_rotated=True)


def png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((width, height), 80).save(out, "PNG")
    return out.getvalue()


def test_a_picture_of_the_inputs_size_is_valid_in_any_type() -> None:
    assert verify(png(60, 40), UPRIGHT, KEEPS) == Picture("image/png", 60, 40, exif_rotated=False)


def test_another_size_is_invalid_if_the_model_keeps_sizes() -> None:
    with pytest.raises(BadResult, match="30x20 for an input of 60x40") as caught:
        verify(png(30, 20), UPRIGHT, KEEPS)
    assert caught.value.maybe_billed
    assert verify(png(30, 20), UPRIGHT, RESIZES).width == 30
    assert verify(png(30, 20), None, KEEPS).width == 30


def test_swapped_sides_are_valid_only_for_a_rotated_input() -> None:
    assert verify(png(40, 60), ROTATED, KEEPS).height == 60
    assert verify(png(60, 40), ROTATED, KEEPS).height == 40
    with pytest.raises(BadResult):
        verify(png(40, 60), UPRIGHT, KEEPS)


@pytest.mark.parametrize("data", [b"", b"<html>", png(60, 40)[:-20], png(60, 40)[:100]])
def test_an_incomplete_or_invalid_picture_is_a_bad_result(data: bytes) -> None:
    with pytest.raises(BadResult, match="delivered no valid picture") as caught:
        verify(data, UPRIGHT, KEEPS)
    assert caught.value.maybe_billed
