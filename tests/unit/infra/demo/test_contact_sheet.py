"""The contact sheet shows every edit and needs no other files."""

import base64
import re
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from infra.demo.contact_sheet import Row, thumbnail, write_html, write_png


def picture(width: int, height: int, form: str, mode: str = "RGB") -> bytes:
    data = BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert(mode).save(data, form)
    return data.getvalue()


ROWS = [
    Row(
        "mug",
        "on <marble> & stone",
        picture(300, 900, "PNG", "RGBA"),
        picture(300, 900, "PNG"),
        "succeeded",
        1,
        1.25,
        "PNG",
    ),
    Row("moon", "no", picture(64, 64, "WEBP"), None, "filtered", 1, 0.5, "WEBP 64x64", "stopped by the filter"),
    Row("coffee", "steam", picture(4096, 100, "JPEG"), picture(4096, 100, "JPEG"), "succeeded", 3, None, "JPEG"),
]


@pytest.fixture
def page(tmp_path: Path) -> str:
    path = tmp_path / "sheet.html"
    write_html(path, ROWS, title="Three <edits>", subtitle="2 succeeded")
    return path.read_text(encoding="utf-8")


def test_the_page_has_every_row_with_its_state(page: str) -> None:
    cards = page.split("<article>")[1:]
    assert len(cards) == len(ROWS)
    for row, card in zip(ROWS, cards, strict=True):
        assert row.name in card
        assert f">{row.state}<" in card
        assert card.count("<img ") == (1 if row.after is None else 2)
    assert "no result: filtered" in cards[1]
    assert "stopped by the filter" in cards[1]
    assert "3 attempts" in cards[2]


def test_the_page_needs_no_other_files(page: str) -> None:
    assert not re.findall(r"(?:src|href)=\"(?!data:)|url\(|@import", page)
    encoded = re.findall(r'src="data:image/webp;base64,([^"]+)"', page)
    assert len(encoded) == 5
    for data in encoded:
        with Image.open(BytesIO(base64.b64decode(data))) as small:
            small.load()
            assert max(small.size) <= 480


def test_the_page_escapes_text_of_the_user(page: str) -> None:
    assert "on &lt;marble&gt; &amp; stone" in page
    assert "Three &lt;edits&gt;" in page


def test_the_png_is_taller_with_more_rows(tmp_path: Path) -> None:
    sizes = []
    for count in (2, 3):
        path = tmp_path / f"{count}.png"
        write_png(path, ROWS[:count], title="Edits", subtitle="x" * 500)
        with Image.open(path) as sheet:
            sheet.load()
            sizes.append(sheet.size)
            colours = sheet.convert("RGB").getcolors(1 << 24) or []
            assert len(colours) > 200
    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] > sizes[0][1]


def test_a_thumbnail_keeps_its_shape_and_transparency() -> None:
    small = thumbnail(picture(1000, 2000, "PNG", "RGBA"))
    assert (small.size, small.mode) == ((180, 360), "RGBA")
    assert thumbnail(picture(40, 30, "JPEG")).size == (40, 30)
