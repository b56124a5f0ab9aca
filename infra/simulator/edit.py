"""The simulated edit: a visible colour grade, and a banner that marks it as simulated."""

from __future__ import annotations

import colorsys
import hashlib
import re
from io import BytesIO
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
# At level 1 a 4096x4096 PNG takes a second of CPU time; at the default level it takes many.
_SAVE_OPTIONS: dict[str, dict[str, int]] = {
    "png": {"compress_level": 1},
    "jpeg": {"quality": 90},
    "webp": {"quality": 90, "method": 0},
}
_INPUT_FORMATS = ("PNG", "JPEG", "WEBP")
_DECODE_ERRORS = (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class UnreadableImage(ValueError):
    """The bytes are not an image of an accepted format, or the image is damaged."""


class Header(NamedTuple):
    """An image's size in pixels as stored, without EXIF orientation applied."""

    width: int
    height: int


def read_header(data: bytes) -> Header:
    """Read an image's size without decoding it.

    Raises:
        UnreadableImage: it is not a PNG, JPEG or WebP.
    """
    try:
        with Image.open(BytesIO(data), formats=_INPUT_FORMATS) as image:
            return Header(*image.size)
    except _DECODE_ERRORS as error:
        raise UnreadableImage(str(error) or type(error).__name__) from error


def edit_image(data: bytes, *, recipe: str, caption: str, size: tuple[int, int], output_format: str) -> bytes:
    """Edit the image; equal arguments give equal bytes.

    Args:
        data: a PNG, JPEG or WebP.
        recipe: identifies the edit (prompt, seed, steps, …); the colours are derived from it.
        caption: the text under SIMULATED EDIT on the banner.
        size: width and height of the result in pixels.
        output_format: `png`, `jpeg` or `webp`.

    Raises:
        UnreadableImage: the image does not decode.
    """
    try:
        with Image.open(BytesIO(data), formats=_INPUT_FORMATS) as source:
            alpha = source.convert("RGBA").getchannel("A") if source.has_transparency_data else None
            picture = _as_rgb(source)
    except _DECODE_ERRORS as error:
        raise UnreadableImage(str(error) or type(error).__name__) from error
    if picture.size != size:
        picture = picture.resize(size)
        alpha = alpha.resize(size) if alpha else None
    picture = _grade(picture, recipe)
    banner = _draw_banner(picture, caption)
    if alpha is not None and output_format != "jpeg":
        alpha.paste(255, banner)
        picture.putalpha(alpha)
    out = BytesIO()
    picture.save(out, output_format, **_SAVE_OPTIONS[output_format])
    return out.getvalue()


def _as_rgb(source: Image.Image) -> Image.Image:
    if source.mode.startswith("I"):  # 16 bits a pixel: convert() would clip them to white
        return source.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    return source.convert("RGB")


def _grade(picture: Image.Image, recipe: str) -> Image.Image:
    """Blend the picture with a duotone whose hues depend on the recipe."""
    digest = hashlib.sha256(recipe.encode()).digest()
    red, green, blue = picture.resize((1, 1), Image.Resampling.BOX).tobytes()
    own_hue = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)[0]
    # Far from the picture's own hue: purple over a purple picture would not be visible.
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
    banner_height = max(2, min(height // 7, width // 6))
    box = (0, height - banner_height, width, height)
    draw = ImageDraw.Draw(picture)
    draw.rectangle(box, fill=(16, 16, 20))
    margin = max(1, banner_height // 8)
    title = "SIMULATED EDIT"
    title_font = _font(title, max_height=banner_height * 0.44, max_width=width - 2 * margin)
    draw.text((margin, height - banner_height + margin * 0.6), title, font=title_font, fill=(255, 214, 64))
    text = " ".join(re.sub(r"\[sim:[^\]]*\]", "", caption).split())
    caption_font = ImageFont.load_default(max(4.0, banner_height * 0.26))
    draw.text(
        (margin, height - banner_height * 0.42),
        _shorten(text, caption_font, width - 2 * margin),
        font=caption_font,
        fill=(235, 235, 235),
    )
    return box


def _font(text: str, *, max_height: float, max_width: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    font = ImageFont.load_default(max(4.0, max_height))
    length = font.getlength(text)
    return font if length <= max_width else ImageFont.load_default(max(4.0, max_height * max_width / length))


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, max_width: float) -> str:
    if font.getlength(text) <= max_width:
        return text
    shortened = text
    while shortened and font.getlength(shortened + "...") > max_width:
        shortened = shortened[: min(len(shortened) - 1, int(len(shortened) * 0.9))]
    return shortened + "..."
