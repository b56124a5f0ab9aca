"""The pictures of the demo: photographs from scikit-image, and products drawn with Pillow."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
_MAX_DRAWN = 2048
"""Larger pictures are drawn at this size and scaled up, which saves seconds."""


class PicturesMissing(Exception):
    """scikit-image, which contains the photographs, is not installed."""


@dataclass(frozen=True)
class DemoPicture:
    """One edit of the demo.

    Attributes:
        name: `custom_id` of the job, and stem of the file names.
        extension: format of the picture: `png`, `jpg` or `webp`.
        prompt: prompt of the edit.
        make: returns the encoded picture.
        state: expected final state of the job.
        attempts: expected minimum number of attempts.
        directive: directive for the simulator; a real endpoint does not know it.
    """

    name: str
    extension: str
    prompt: str
    make: Callable[[], bytes]
    state: str = "succeeded"
    attempts: int = 1
    directive: str = ""


def demo_pictures() -> list[DemoPicture]:
    """Return all pictures; those with a directive come last.

    Raises:
        PicturesMissing: scikit-image is not installed.
    """
    photo = _photographs()
    return [
        DemoPicture("mug", "jpg", "on a marble table, morning light", lambda: _draw(mug, 2048, 2048, "JPEG")),
        DemoPicture("astronaut", "png", "soft studio background", lambda: photo("astronaut.png")),
        DemoPicture("vase", "jpg", "soft studio background, large print", lambda: _draw(vase, 4096, 4096, "JPEG")),
        DemoPicture("cat", "webp", "autumn colours behind the cat", lambda: _reencoded(photo("chelsea.png"), "WEBP")),
        DemoPicture("bottle", "png", "standing on wet pebbles", lambda: _draw(bottle, 1200, 1600, "PNG", alpha=True)),
        DemoPicture("motorcycle", "png", "clean white showroom", lambda: photo("motorcycle_left.png")),
        DemoPicture("lamp", "webp", "in a dim living room, lamp lit", lambda: _draw(lamp, 1600, 1200, "WEBP")),
        DemoPicture("rocket", "jpg", "golden hour sky", lambda: photo("rocket.jpg")),
        DemoPicture("parcel", "png", "on a doorstep, shallow focus", lambda: _draw(parcel, 1024, 768, "PNG")),
        DemoPicture("galaxies", "jpg", "deeper blacks, less noise", lambda: photo("hubble_deep_field.jpg")),
        DemoPicture("watch", "webp", "black velvet, one soft light", lambda: _draw(watch, 3000, 2000, "WEBP")),
        DemoPicture("coins", "png", "even light, neutral grey", lambda: photo("coins.png")),
        DemoPicture(
            "coffee",
            "png",
            "steam rising from the cup",
            lambda: photo("coffee.png"),
            attempts=3,
            directive="[sim:fail=503*2]",
        ),
        DemoPicture(
            "moon",
            "png",
            "something the content filter stops",
            lambda: photo("moon.png"),
            state="filtered",
            directive="[sim:filtered]",
        ),
    ]


def _photographs() -> Callable[[str], bytes]:
    # find_spec finds the files without the import of scikit-image, which takes a second.
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise PicturesMissing(
            "scikit-image, which contains the demo's photographs, is missing: pip install 'retouch[local]'"
        )
    folder = Path(spec.submodule_search_locations[0], "data")
    return lambda name: (folder / name).read_bytes()


def _reencoded(data: bytes, form: str) -> bytes:
    with Image.open(BytesIO(data)) as picture:
        return _encoded(picture, form)


def _encoded(picture: Image.Image, form: str) -> bytes:
    data = BytesIO()
    picture.save(data, form, quality=90, compress_level=1, method=2)
    return data.getvalue()


def _draw(paint: "Callable[[Canvas], None]", width: int, height: int, form: str, *, alpha: bool = False) -> bytes:
    scale = min(1.0, _MAX_DRAWN / max(width, height))
    canvas = Canvas(round(width * scale), round(height * scale), alpha=alpha)
    paint(canvas)
    picture = canvas.picture if alpha else canvas.picture.convert("RGB")
    return _encoded(picture.resize((width, height), Image.Resampling.BICUBIC) if scale < 1 else picture, form)


class Canvas:
    """A picture to draw on. Coordinates are fractions of the shorter side, from the centre: x right, y down."""

    def __init__(self, width: int, height: int, *, alpha: bool) -> None:
        top, bottom = (0, 0, 0, 0), (0, 0, 0, 0)
        if not alpha:
            top, bottom = (226, 229, 232, 255), (188, 193, 199, 255)
        shade = Image.linear_gradient("L").resize((width, height))
        self.picture = Image.composite(
            Image.new("RGBA", (width, height), bottom), Image.new("RGBA", (width, height), top), shade
        )
        self._side = min(width, height)

    def shape(self, kind: str, box: Box, colour: Colour, *, radius: float = 0.03, light: float = 0.35) -> None:
        """Draw a `rectangle` or an `ellipse` with light from the left; `light` is the contrast, 0 for none."""
        mask = Image.new("L", self.picture.size, 0)
        draw, at = ImageDraw.Draw(mask), self._pixels(box)
        if kind == "ellipse":
            draw.ellipse(at, fill=255)
        else:
            draw.rounded_rectangle(at, radius * self._side, fill=255)
        self._fill(mask, at, colour, light)

    def polygon(self, points: list[tuple[float, float]], colour: Colour, *, light: float = 0.25) -> None:
        """Draw a polygon."""
        mask = Image.new("L", self.picture.size, 0)
        placed = [self._pixels((x, y, x, y))[:2] for x, y in points]
        ImageDraw.Draw(mask).polygon(placed, fill=255)
        xs, ys = [x for x, _ in placed], [y for _, y in placed]
        self._fill(mask, (min(xs), min(ys), max(xs), max(ys)), colour, light)

    def ring(self, box: Box, colour: Colour, thickness: float) -> None:
        """Draw the outline of an ellipse."""
        width = max(1, round(thickness * self._side))
        ImageDraw.Draw(self.picture).ellipse(self._pixels(box), outline=(*colour, 255), width=width)

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: Colour, thickness: float) -> None:
        """Draw a line."""
        ends = [self._pixels((*point, *point))[:2] for point in (start, end)]
        ImageDraw.Draw(self.picture).line(ends, fill=(*colour, 255), width=max(1, round(thickness * self._side)))

    def shadow(self, box: Box) -> None:
        """Draw a soft shadow."""
        small = (self.picture.width // 8, self.picture.height // 8)
        mask = Image.new("L", self.picture.size, 0)
        ImageDraw.Draw(mask).ellipse(self._pixels(box), fill=130)
        mask = mask.resize(small).filter(ImageFilter.GaussianBlur(self._side / 8 / 30)).resize(self.picture.size)
        self.picture.alpha_composite(_tinted(mask, (20, 24, 30)))

    def _pixels(self, box: Box) -> Box:
        cx, cy, side = self.picture.width / 2, self.picture.height / 2, self._side
        return cx + box[0] * side, cy + box[1] * side, cx + box[2] * side, cy + box[3] * side

    def _fill(self, mask: Image.Image, at: Box, colour: Colour, light: float) -> None:
        left, top, right, bottom = (round(value) for value in at)
        size = (max(1, right - left + 1), max(1, bottom - top + 1))
        shade = Image.linear_gradient("L").rotate(90).resize(size)
        lit = tuple(min(255, round(c + (255 - c) * light)) for c in colour)
        dim = tuple(round(c * (1 - light)) for c in colour)
        body = Image.composite(Image.new("RGB", size, dim), Image.new("RGB", size, lit), ImageChops.invert(shade))
        self.picture.paste(body, (left, top), mask.crop((left, top, left + size[0], top + size[1])))


def _tinted(mask: Image.Image, colour: Colour) -> Image.Image:
    layer = Image.new("RGBA", mask.size, (*colour, 0))
    layer.putalpha(mask)
    return layer


def mug(canvas: Canvas) -> None:
    """A blue mug."""
    canvas.shadow((-0.34, 0.26, 0.36, 0.40))
    canvas.ring((0.12, -0.16, 0.42, 0.18), (34, 84, 140), 0.05)
    canvas.shape("rectangle", (-0.26, -0.26, 0.24, 0.33), (48, 108, 172), radius=0.06)
    canvas.shape("ellipse", (-0.26, -0.33, 0.24, -0.19), (232, 236, 240), light=0.1)
    canvas.shape("ellipse", (-0.23, -0.31, 0.21, -0.20), (84, 52, 34))
    canvas.shape("ellipse", (-0.13, -0.06, 0.11, 0.18), (240, 240, 236), light=0.05)


def vase(canvas: Canvas) -> None:
    """A terracotta vase with three stems."""
    canvas.shadow((-0.26, 0.34, 0.28, 0.46))
    for x, top, colour in (
        (-0.16, -0.42, (214, 92, 108)),
        (0.02, -0.47, (238, 178, 72)),
        (0.17, -0.39, (176, 96, 170)),
    ):
        canvas.line((0.0, 0.0), (x, top + 0.03), (74, 116, 70), 0.012)
        canvas.shape("ellipse", (x - 0.065, top - 0.02, x + 0.065, top + 0.11), colour)
        canvas.shape("ellipse", (x - 0.02, top + 0.025, x + 0.02, top + 0.065), (250, 226, 140), light=0.1)
    canvas.shape("ellipse", (-0.22, -0.02, 0.22, 0.42), (186, 98, 66), light=0.45)
    canvas.shape("rectangle", (-0.08, -0.10, 0.08, 0.10), (186, 98, 66), radius=0.02, light=0.45)
    canvas.shape("ellipse", (-0.11, -0.13, 0.11, -0.06), (206, 122, 88), light=0.3)
    canvas.shape("rectangle", (-0.205, 0.15, 0.205, 0.19), (236, 222, 196), radius=0.0, light=0.3)


def bottle(canvas: Canvas) -> None:
    """A green bottle on a transparent background."""
    canvas.shadow((-0.24, 0.55, 0.26, 0.64))
    canvas.shape("rectangle", (-0.19, -0.18, 0.19, 0.60), (38, 106, 78), radius=0.07, light=0.45)
    canvas.shape("ellipse", (-0.19, -0.32, 0.19, 0.02), (38, 106, 78), light=0.45)
    canvas.shape("rectangle", (-0.065, -0.56, 0.065, -0.20), (38, 106, 78), radius=0.02, light=0.45)
    canvas.shape("rectangle", (-0.075, -0.62, 0.075, -0.50), (196, 164, 92), radius=0.015, light=0.45)
    canvas.shape("rectangle", (-0.19, 0.04, 0.19, 0.40), (244, 240, 226), radius=0.0, light=0.12)
    for y, half in ((0.12, 0.12), (0.18, 0.08), (0.30, 0.10)):
        canvas.line((-half, y), (half, y), (120, 108, 84), 0.012)


def lamp(canvas: Canvas) -> None:
    """A desk lamp."""
    canvas.shadow((-0.24, 0.33, 0.26, 0.45))
    canvas.shape("ellipse", (-0.20, 0.31, 0.20, 0.41), (64, 68, 76))
    canvas.shape("rectangle", (-0.015, -0.12, 0.015, 0.37), (150, 154, 160), radius=0.0)
    canvas.polygon([(-0.16, -0.38), (0.16, -0.38), (0.29, -0.06), (-0.29, -0.06)], (232, 186, 96), light=0.4)
    canvas.shape("ellipse", (-0.29, -0.085, 0.29, -0.035), (252, 232, 180), light=0.1)


def parcel(canvas: Canvas) -> None:
    """A cardboard box."""
    canvas.shadow((-0.44, 0.26, 0.44, 0.42))
    canvas.polygon([(-0.36, -0.12), (0.02, 0.02), (0.02, 0.38), (-0.36, 0.22)], (190, 146, 98))
    canvas.polygon([(0.02, 0.02), (0.38, -0.12), (0.38, 0.22), (0.02, 0.38)], (158, 116, 72))
    canvas.polygon([(-0.36, -0.12), (0.01, -0.25), (0.38, -0.12), (0.02, 0.02)], (216, 176, 128))
    canvas.polygon([(-0.20, -0.176), (-0.14, -0.197), (0.235, -0.065), (0.175, -0.04)], (236, 214, 176), light=0.1)
    canvas.polygon([(-0.30, 0.04), (-0.14, 0.10), (-0.14, 0.21), (-0.30, 0.145)], (246, 246, 242), light=0.05)


def watch(canvas: Canvas) -> None:
    """A wrist watch."""
    canvas.shadow((-0.30, 0.36, 0.34, 0.48))
    canvas.shape("rectangle", (-0.13, -0.48, 0.13, 0.48), (110, 66, 44), radius=0.05, light=0.4)
    canvas.shape("rectangle", (0.28, -0.03, 0.35, 0.03), (188, 192, 198), radius=0.01)
    canvas.shape("ellipse", (-0.30, -0.30, 0.30, 0.30), (172, 178, 186), light=0.5)
    canvas.shape("ellipse", (-0.26, -0.26, 0.26, 0.26), (24, 30, 44), light=0.12)
    for x, y in ((0, -1), (0.5, -0.866), (0.866, -0.5), (1, 0), (0.866, 0.5), (0.5, 0.866)):
        for sign in (1, -1):
            canvas.line(
                (sign * x * 0.205, sign * y * 0.205), (sign * x * 0.235, sign * y * 0.235), (228, 230, 234), 0.01
            )
    canvas.line((0, 0), (0.09, -0.10), (240, 240, 240), 0.02)
    canvas.line((0, 0), (-0.06, -0.19), (240, 240, 240), 0.012)
    canvas.shape("ellipse", (-0.018, -0.018, 0.018, 0.018), (214, 92, 80), light=0.1)
