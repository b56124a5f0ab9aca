"""The demo's pictures are what it promises: many, of every format, up to the largest size."""

from io import BytesIO

from PIL import Image

from infra.demo.pictures import demo_pictures


def test_the_demo_covers_formats_sizes_and_ends() -> None:
    pictures = demo_pictures()
    ordinary = [picture for picture in pictures if not picture.directive]
    assert len(ordinary) >= 12
    assert len({picture.name for picture in pictures}) == len(pictures)
    forms, sizes = set(), set()
    for picture in ordinary:
        with Image.open(BytesIO(picture.make())) as made:
            made.load()
            assert {"JPEG": "jpg"}.get(made.format or "", (made.format or "").lower()) == picture.extension
            forms.add(made.format)
            sizes.add(made.size)
    assert forms == {"PNG", "JPEG", "WEBP"}
    assert max(sizes) == (4096, 4096)
    assert all(picture.state == "succeeded" for picture in ordinary)
    assert sorted(picture.state for picture in pictures if picture.directive) == ["filtered", "succeeded"]
