"""The demo has many pictures, in every format and up to the maximum size."""

from io import BytesIO

from PIL import Image

from infra.demo.pictures import demo_pictures


def test_the_demo_covers_formats_sizes_and_final_states() -> None:
    pictures = demo_pictures()
    ordinary = [picture for picture in pictures if not picture.directive]
    assert len(ordinary) >= 12
    assert len({picture.name for picture in pictures}) == len(pictures)
    formats, sizes = set(), set()
    for picture in ordinary:
        with Image.open(BytesIO(picture.make())) as encoded:
            encoded.load()
            assert {"JPEG": "jpg"}.get(encoded.format or "", (encoded.format or "").lower()) == picture.extension
            formats.add(encoded.format)
            sizes.add(encoded.size)
    assert formats == {"PNG", "JPEG", "WEBP"}
    assert max(sizes) == (4096, 4096)
    assert all(picture.state == "succeeded" for picture in ordinary)
    assert sorted(picture.state for picture in pictures if picture.directive) == ["filtered", "succeeded"]
