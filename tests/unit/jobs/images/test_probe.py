"""Accepted and refused pictures, with real photographs."""

import importlib.util
import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageFile

from jobs.foundation.errors import InputRejected
from jobs.images.picture import Picture
from jobs.images.probe import probe

_SPEC = importlib.util.find_spec("skimage")
assert _SPEC is not None
assert _SPEC.submodule_search_locations
DATA = Path(_SPEC.submodule_search_locations[0]) / "data"
PIXELS = 50_000_000


def photograph(name: str = "astronaut.png") -> Image.Image:
    with Image.open(DATA / name) as image:
        return image.convert("RGB")


def encoded(image: Image.Image, format_name: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format_name, **options)
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(header: bytes, *chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def header(width: int, height: int, depth: int = 8, colour: int = 0, interlace: int = 0) -> bytes:
    return struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)


FORMATS = {
    "png": lambda image: encoded(image, "PNG"),
    "png in small chunks": lambda image: encoded(image, "PNG", compress_level=1),
    "jpeg": lambda image: encoded(image, "JPEG", quality=90),
    "progressive jpeg": lambda image: encoded(image, "JPEG", quality=90, progressive=True),
    "webp": lambda image: encoded(image, "WEBP", quality=90),
    "lossless webp": lambda image: encoded(image, "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", [path.name for path in sorted(DATA.glob("*.png")) + sorted(DATA.glob("*.jpg"))])
def test_a_photograph_has_the_size_and_format_that_pillow_reads(name: str) -> None:
    found = probe((DATA / name).read_bytes(), max_pixels=PIXELS)
    with Image.open(DATA / name) as image:
        assert (found.width, found.height) == image.size
        assert found.media_type == Image.MIME[image.format or ""]


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_each_format_is_detected_from_its_bytes(make) -> None:
    found = probe(make(photograph("coffee.png")), max_pixels=PIXELS)
    assert (found.width, found.height, found.exif_rotated) == (600, 400, False)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_kind_of_png_pixel_is_read(mode: str) -> None:
    image = photograph("coffee.png").crop((0, 0, 37, 23)).convert("L").convert(mode)
    assert probe(encoded(image, "PNG"), max_pixels=PIXELS) == Picture("image/png", 37, 23, exif_rotated=False)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_every_kind_of_jpeg_pixel_is_read(mode: str) -> None:
    assert probe(encoded(photograph().convert(mode), "JPEG"), max_pixels=PIXELS).media_type == "image/jpeg"


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 2), (5, 9), (8, 8), (33, 17)])
def test_the_length_of_an_interlaced_png_is_the_sum_of_its_passes(width: int, height: int) -> None:
    # Adam7 by hand, since Pillow cannot write it: each pass is a small picture, here all black.
    rows = b""
    for x, y, dx, dy in [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]:
        across, down = len(range(x, width, dx)), len(range(y, height, dy))
        rows += b"".join(b"\0" * (1 + across) for _ in range(down)) if across else b""
    data = png(header(width, height, interlace=1), chunk(b"IDAT", zlib.compress(rows)))
    with Image.open(io.BytesIO(data)) as image:
        image.load()  # Pillow can read it, too
    assert probe(data, max_pixels=PIXELS).width == width
    short = png(header(width, height, interlace=1), chunk(b"IDAT", zlib.compress(rows[:-1])))
    with pytest.raises(InputRejected, match="truncated"):
        probe(short, max_pixels=PIXELS)


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("lost", [1, 2, 13, 100, 1000, 0.5, 0.99])
def test_a_truncated_picture_is_refused(make, lost: float) -> None:
    data = make(photograph())
    cut = data[: -int(lost)] if lost >= 1 else data[: int(len(data) * (1 - lost))]
    with pytest.raises(InputRejected, match=r"truncated|broken|cut short"):
        probe(cut, max_pixels=PIXELS)


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_a_single_flipped_bit_in_a_png_is_detected(at: float) -> None:
    data = bytearray(encoded(photograph(), "PNG"))
    data[int(len(data) * at)] ^= 1
    with pytest.raises(InputRejected, match=r"broken|truncated"):
        probe(bytes(data), max_pixels=PIXELS)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (png(header(4, 4), chunk(b"IDAT", zlib.compress(b"\0" * 19))), "truncated"),
        (png(header(4, 4), chunk(b"IDAT", zlib.compress(b"\0" * 21))), "more pixels than its size"),
        (png(header(4, 4), chunk(b"IDAT", zlib.compress(b"\0" * 20)[:-4])), "truncated"),
        (png(header(4, 4), chunk(b"IDAT", b"no zlib")), "broken"),
        (png(header(4, 4)), "truncated"),
        (png(header(0, 4), chunk(b"IDAT", zlib.compress(b""))), "header"),
        (png(header(4, 4, depth=3), chunk(b"IDAT", zlib.compress(b"\0" * 20))), "header"),
        (png(header(4, 4, colour=3), chunk(b"IDAT", zlib.compress(b"\0" * 20))), "palette"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", b""), "header"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"", "empty"),
        (b"<html>", "of an unknown format"),
        (b"GIF89a" + bytes(100), "GIF"),
        (b"BM" + bytes(100), "BMP"),
        (b"II*\0" + bytes(100), "TIFF"),
        (b"\0\0\0\x20ftypavif" + bytes(100), "AVIF or HEIC"),
        (b"\xff\xd8\xff", "JPEG"),
        (b"\xff\xd8\xff\xe0" + bytes(1000), "JPEG"),
        (b"RIFF\x10\0\0\0WEBPVP8 " + bytes(10), "WebP"),
    ],
)
def test_invalid_pictures_are_refused_with_a_reason(data: bytes, word: str) -> None:
    with pytest.raises(InputRejected, match=word):
        probe(data, max_pixels=PIXELS)


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_a_picture_with_too_many_pixels_is_refused(make) -> None:
    with pytest.raises(InputRejected, match="512x512"):
        probe(make(photograph()), max_pixels=512 * 512 - 1)


def test_a_decompression_bomb_is_refused_before_a_pixel_is_decoded() -> None:
    # 65,000 x 65,000 pixels would be 4 GB; the data is much shorter.
    bomb = png(header(65_000, 65_000), chunk(b"IDAT", zlib.compress(bytes(10_000_000))))
    with pytest.raises(InputRejected, match="65000x65000"):
        probe(bomb, max_pixels=PIXELS)
    huge = bytearray(encoded(Image.new("L", (64, 64)), "JPEG"))
    at = huge.index(b"\xff\xc0") + 5
    huge[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    with pytest.raises(InputRejected, match="pixels"):
        probe(bytes(huge), max_pixels=PIXELS)


def test_a_png_that_inflates_to_more_than_its_size_is_not_inflated_to_the_end() -> None:
    bomb = png(header(10, 10), chunk(b"IDAT", zlib.compress(bytes(50_000_000), 1)))
    with pytest.raises(InputRejected, match="more pixels than its size"):
        probe(bomb, max_pixels=PIXELS)


def test_animated_pictures_are_refused() -> None:
    frames = [photograph("coffee.png").resize((60, 40)), photograph("chelsea.png").resize((60, 40))]
    for name in ("PNG", "WEBP"):
        animated = encoded(frames[0], name, save_all=True, append_images=frames[1:])
        with pytest.raises(InputRejected, match="animated"):
            probe(animated, max_pixels=PIXELS)


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_that_swaps_the_sides_is_detected(format_name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photograph("coffee.png"), format_name, exif=exif)
    found = probe(data, max_pixels=PIXELS)
    assert (found.width, found.height, found.exif_rotated) == (600, 400, orientation >= 5)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP"])
def test_broken_exif_does_not_make_a_picture_unreadable(format_name: str) -> None:
    data = encoded(photograph("coffee.png"), format_name, exif=b"Exif\0\0MM\0*\0\0\xff\xff broken")
    assert probe(data, max_pixels=PIXELS).exif_rotated is False


def test_the_first_picture_of_a_jpeg_with_two_is_read() -> None:
    frames = [photograph("coffee.png"), photograph("chelsea.png")]
    found = probe(encoded(frames[0], "MPO", save_all=True, append_images=frames[1:]), max_pixels=PIXELS)
    assert found == Picture("image/jpeg", 600, 400, exif_rotated=False)


def test_pillow_is_not_set_to_accept_truncated_pictures() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
