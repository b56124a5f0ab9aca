"""The simulated edit: a colour grade that anybody sees, under a banner that says what it is."""

from __future__ import annotations

import colorsys
import hashlib
import re
from io import BytesIO
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
# Level 1: a 4096x4096 PNG is still a second of one core's time, and at the default level many.
_SAVE: dict[str, dict[str, int]] = {
    "png": {"compress_level": 1},
    "jpeg": {"quality": 90},
    "webp": {"quality": 90, "method": 0},
}
_INPUTS = ("PNG", "JPEG", "WEBP")
_BROKEN = (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class Unreadable(ValueError):
    """The bytes are no image of an accepted format, or a damaged one."""


class Header(NamedTuple):
    """What an image's first bytes tell: its size as stored (EXIF orientation not applied) in pixels."""

    width: int
    height: int


def read_header(data: bytes) -> Header:
    """Read an image's size without decoding it.

    Raises:
        Unreadable: no PNG, JPEG or WebP.
    """
    try:
        with Image.open(BytesIO(data), formats=_INPUTS) as image:
            return Header(*image.size)
    except _BROKEN as error:
        raise Unreadable(str(error) or type(error).__name__) from error


def edit_image(data: bytes, *, recipe: str, caption: str, size: tuple[int, int], output_format: str) -> bytes:
    """Make the edit; the same arguments give the same bytes.

    Args:
        data: a PNG, JPEG or WebP.
        recipe: whatever tells two edits apart (prompt, seed, steps, …); the colours are derived from it.
        caption: the words under SIMULATED EDIT on the banner.
        size: width and height of the result in pixels.
        output_format: `png`, `jpeg` or `webp`.

    Raises:
        Unreadable: the image does not decode.
    """
    try:
        with Image.open(BytesIO(data), formats=_INPUTS) as source:
            alpha = source.convert("RGBA").getchannel("A") if source.has_transparency_data else None
            picture = _as_rgb(source)
    except _BROKEN as error:
        raise Unreadable(str(error) or type(error).__name__) from error
    if picture.size != size:
        picture = picture.resize(size)
        alpha = alpha.resize(size) if alpha else None
    picture = _grade(picture, recipe)
    banner = _draw_banner(picture, caption)
    if alpha is not None and output_format != "jpeg":
        alpha.paste(255, banner)
        picture.putalpha(alpha)
    out = BytesIO()
    picture.save(out, output_format, **_SAVE[output_format])
    return out.getvalue()


def _as_rgb(source: Image.Image) -> Image.Image:
    if source.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip to white
        return source.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    return source.convert("RGB")


def _grade(picture: Image.Image, recipe: str) -> Image.Image:
    """Lay a duotone over the picture: shadows of one hue, lights of a hue across the wheel."""
    digest = hashlib.sha256(recipe.encode()).digest()
    red, green, blue = picture.resize((1, 1), Image.Resampling.BOX).tobytes()
    own_hue = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)[0]
    # Away from the picture's own hue: a purple dusk under purple would look untouched.
    hue = own_hue + 0.25 + digest[0] / 256 * 0.5
    shift = 0.1 + digest[1] / 256 * 0.3
    dark = _rgb(hue, 0.9, 0.32)
    middle = _rgb(hue + shift / 2, 0.6, 0.65)
    light = _rgb(hue + shift, 0.3, 1.0)
    toned = ImageOps.colorize(ImageOps.grayscale(picture), black=dark, white=light, mid=middle)
    return Image.blend(picture, toned, 0.75)


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _draw_banner(picture: Image.Image, caption: str) -> tuple[int, int, int, int]:
    """Draw the banner along the lower edge and return the box it covers."""
    width, height = picture.size
    tall = max(2, min(height // 7, width // 6))
    box = (0, height - tall, width, height)
    draw = ImageDraw.Draw(picture)
    draw.rectangle(box, fill=(16, 16, 20))
    margin = max(1, tall // 8)
    title = "SIMULATED EDIT"
    title_font = _font(title, most=tall * 0.44, room=width - 2 * margin)
    draw.text((margin, height - tall + margin * 0.6), title, font=title_font, fill=(255, 214, 64))
    words = " ".join(re.sub(r"\[sim:[^\]]*\]", "", caption).split())
    caption_font = ImageFont.load_default(max(4.0, tall * 0.26))
    draw.text(
        (margin, height - tall * 0.42),
        _shorten(words, caption_font, width - 2 * margin),
        font=caption_font,
        fill=(235, 235, 235),
    )
    return box


def _font(words: str, *, most: float, room: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    font = ImageFont.load_default(max(4.0, most))
    length = font.getlength(words)
    return font if length <= room else ImageFont.load_default(max(4.0, most * room / length))


def _shorten(words: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> str:
    if font.getlength(words) <= room:
        return words
    kept = words
    while kept and font.getlength(kept + "...") > room:
        kept = kept[: min(len(kept) - 1, int(len(kept) * 0.9))]
    return kept + "..."
