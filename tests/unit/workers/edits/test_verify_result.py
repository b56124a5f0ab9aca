"""What is taken for the edit that was asked for."""

import io

import pytest
from PIL import Image

from jobs.catalogue.catalogue import load_catalogue
from jobs.foundation.errors import BadResult
from jobs.images.picture import Picture
from workers.edits.verify_result import verify

KEEPS = load_catalogue().get(None)
RESIZES = KEEPS.model_copy(update={"keeps_size": False})
GIVEN = Picture("image/jpeg", 60, 40, exif_rotated=False)
TURNED = Picture("image/jpeg", 60, 40, exif_rotated=True)


def png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((width, height), 80).save(out, "PNG")
    return out.getvalue()


def test_a_picture_of_the_inputs_size_is_a_result_whatever_its_type() -> None:
    assert verify(png(60, 40), GIVEN, KEEPS) == Picture("image/png", 60, 40, exif_rotated=False)


def test_a_result_of_another_size_is_bad_where_the_model_keeps_sizes() -> None:
    with pytest.raises(BadResult, match="30x20 for an input of 60x40") as caught:
        verify(png(30, 20), GIVEN, KEEPS)
    assert caught.value.maybe_billed
    assert verify(png(30, 20), GIVEN, RESIZES).width == 30
    assert verify(png(30, 20), None, KEEPS).width == 30


def test_swapped_sides_are_right_only_where_the_input_is_shown_turned() -> None:
    assert verify(png(40, 60), TURNED, KEEPS).height == 60
    assert verify(png(60, 40), TURNED, KEEPS).height == 40
    with pytest.raises(BadResult):
        verify(png(40, 60), GIVEN, KEEPS)


@pytest.mark.parametrize("data", [b"", b"<html>", png(60, 40)[:-20], png(60, 40)[:100]])
def test_what_is_no_whole_picture_is_bad(data: bytes) -> None:
    with pytest.raises(BadResult, match="delivered no valid picture") as caught:
        verify(data, GIVEN, KEEPS)
    assert caught.value.maybe_billed
