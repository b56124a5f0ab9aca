"""Contact sheets of edits, before and after: a self-contained HTML page and a PNG."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

STYLE = Path(__file__).with_name("contact_sheet.css")
_THUMBNAIL = (480, 360)

Colour = tuple[int, int, int]
_INK: Colour = (28, 32, 38)
_FAINT: Colour = (104, 112, 122)
_PAGE: Colour = (244, 245, 247)
_CARD: Colour = (255, 255, 255)
_EMPTY: Colour = (236, 238, 241)
_STATES: dict[str, tuple[Colour, Colour]] = {
    "succeeded": ((22, 101, 52), (220, 244, 229)),
    "filtered": ((107, 33, 138), (243, 228, 250)),
    "failed": ((153, 27, 27), (252, 226, 226)),
    "canceled": ((75, 85, 99), (229, 231, 235)),
}
_OTHER_STATE: tuple[Colour, Colour] = ((30, 64, 140), (224, 233, 250))


@dataclass(frozen=True)
class Row:
    """One edit.

    Attributes:
        name: name of the job.
        prompt: prompt of the edit.
        before: the submitted picture.
        after: the result; None if there is none.
        state: final state of the job.
        attempts: number of attempts.
        took_s: seconds from submission to the end; None if the job has not ended.
        about: format and size as text.
        note: why there is no result, or why there was a retry.
    """

    name: str
    prompt: str
    before: bytes
    after: bytes | None
    state: str
    attempts: int
    took_s: float | None
    about: str
    note: str = ""

    @property
    def facts(self) -> str:
        """Format, size, attempts and time in one line."""
        attempts = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        return " · ".join([self.about, attempts, *([f"{self.took_s:.1f} s"] if self.took_s is not None else [])])


def thumbnail(data: bytes) -> Image.Image:
    """Return the picture in at most 480x360 pixels, upright; it keeps transparency."""
    with Image.open(BytesIO(data)) as picture:
        picture.draft("RGB", (2 * _THUMBNAIL[0], 2 * _THUMBNAIL[1]))
        upright = ImageOps.exif_transpose(picture)
        small = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
        small.thumbnail(_THUMBNAIL, Image.Resampling.LANCZOS, reducing_gap=2.0)
        return small


def write_html(path: Path, rows: Sequence[Row], *, title: str, subtitle: str) -> None:
    """Write the HTML page with embedded thumbnails, at most about 60 KB a row."""
    cards = "\n".join(_card(row) for row in rows)
    path.write_text(
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p>{escape(subtitle)}</p>
</header>
<main>
{cards}
</main>
</body>
</html>
""",
        encoding="utf-8",
    )


def _card(row: Row) -> str:
    note = f'\n<p class="note">{escape(row.note)}</p>' if row.note else ""
    name = escape(row.name)
    return f"""<article>
<div class="pair">
{_figure(row.before, "before", f"{name} before the edit", row.state)}
{_figure(row.after, "after", f"{name} after the edit", row.state)}
</div>
<h2>{name} <span class="state {escape(row.state)}">{escape(row.state)}</span></h2>
<p class="prompt">{escape(row.prompt)}</p>
<p class="facts">{escape(row.facts)}</p>{note}
</article>"""


def _figure(data: bytes | None, caption: str, alt: str, state: str) -> str:
    if data is None:
        content = f'<div class="empty">no result: {escape(state)}</div>'
    else:
        encoded = BytesIO()
        thumbnail(data).save(encoded, "WEBP", quality=82)
        address = base64.b64encode(encoded.getvalue()).decode()
        content = f'<img src="data:image/webp;base64,{address}" alt="{alt}">'
    return f"<figure>{content}<figcaption>{caption}</figcaption></figure>"


_COLUMNS = 2
_FRAME = (400, 300)
_GAP = 28
_PAD = 22
_TEXT_HEIGHT = 146
_HEAD = 150
_CARD_WIDTH = 2 * _FRAME[0] + 3 * _PAD
_CARD_HEIGHT = _FRAME[1] + 2 * _PAD + _TEXT_HEIGHT


def write_png(path: Path, rows: Sequence[Row], *, title: str, subtitle: str) -> None:
    """Write the PNG: two edits a line, about 0.9 megapixels each."""
    lines = -(-len(rows) // _COLUMNS)
    width = _COLUMNS * _CARD_WIDTH + (_COLUMNS + 1) * _GAP
    sheet = Image.new("RGB", (width, _HEAD + lines * (_CARD_HEIGHT + _GAP)), _PAGE)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 34), title, font=ImageFont.load_default(44), fill=_INK)
    draw.text((_GAP, 96), _fitted(subtitle, 24, width - 2 * _GAP), font=ImageFont.load_default(24), fill=_FAINT)
    for number, row in enumerate(rows):
        line, column = divmod(number, _COLUMNS)
        _paint(sheet, row, _GAP + column * (_CARD_WIDTH + _GAP), _HEAD + line * (_CARD_HEIGHT + _GAP))
    sheet.save(path, "PNG", compress_level=6)


def _paint(sheet: Image.Image, row: Row, x: int, y: int) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.rounded_rectangle((x, y, x + _CARD_WIDTH, y + _CARD_HEIGHT), 16, fill=_CARD, outline=(222, 225, 230))
    for number, (data, caption) in enumerate(((row.before, "before"), (row.after, "after"))):
        left, top = x + _PAD + number * (_FRAME[0] + _PAD), y + _PAD
        draw.rounded_rectangle((left, top, left + _FRAME[0], top + _FRAME[1]), 8, fill=_EMPTY)
        if data is None:
            middle = (left + _FRAME[0] // 2, top + _FRAME[1] // 2)
            draw.text(middle, f"no result: {row.state}", font=ImageFont.load_default(24), fill=_FAINT, anchor="mm")
            continue
        picture = thumbnail(data)
        picture.thumbnail(_FRAME, Image.Resampling.LANCZOS)
        at = (left + (_FRAME[0] - picture.width) // 2, top + (_FRAME[1] - picture.height) // 2)
        sheet.paste(picture, at, picture if picture.mode == "RGBA" else None)
        _label(draw, (left + 10, top + 10), caption, (255, 255, 255), (40, 44, 50))
    left, top, room = x + _PAD, y + 2 * _PAD + _FRAME[1], _CARD_WIDTH - 2 * _PAD
    draw.text((left, top - 6), row.name, font=ImageFont.load_default(32), fill=_INK)
    ink, ground = _STATES.get(row.state, _OTHER_STATE)
    name_width = draw.textlength(row.name, font=ImageFont.load_default(32))
    _label(draw, (left + round(name_width) + 16, top - 2), row.state, ink, ground)
    draw.text((left, top + 40), _fitted(row.prompt, 24, room), font=ImageFont.load_default(24), fill=_INK)
    for offset, line in ((78, row.facts), (106, row.note)):
        draw.text((left, top + offset), _fitted(line, 21, room), font=ImageFont.load_default(21), fill=_FAINT)


def _label(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, ink: Colour, ground: Colour) -> None:
    font = ImageFont.load_default(19)
    width = round(draw.textlength(text, font=font))
    draw.rounded_rectangle((*at, at[0] + width + 20, at[1] + 29), 14, fill=ground)
    draw.text((at[0] + 10, at[1] + 14), text, font=font, fill=ink, anchor="lm")


def _fitted(text: str, size: int, room: int) -> str:
    """Truncate the text to `room` pixels."""
    font = ImageFont.load_default(size)
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(f"{text}…") > room:
        text = text[:-1]
    return f"{text}…"
