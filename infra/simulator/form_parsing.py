"""Shared by the dialects: the parsed request, the refusal, and the parsing of form fields."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from starlette.datastructures import UploadFile

from infra.simulator.edit import Header, UnreadableImage, read_header

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.datastructures import FormData

Delivery = Literal["url", "b64_json"]
Format = Literal["png", "jpeg", "webp"]

MAX_SEED = 2_147_483_647


@dataclass(frozen=True, slots=True)
class EditRequest:
    """A parsed and valid edit request.

    Attributes:
        image: the bytes of the input image.
        header: its stored size in pixels.
        seed: None lets the server choose.
        options: further parameters of the edit (steps, guidance, …); equal edits have equal options.
        size: requested width and height; None keeps the input's.
        output_format: None selects the knobs' format.
    """

    model: str
    image: bytes
    header: Header
    prompt: str
    seed: int | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    delivery: Delivery = "b64_json"
    count: int = 1
    size: tuple[int, int] | None = None
    output_format: Format | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One picture of an answer; ``path`` on this server is empty if ``b64`` has the picture itself."""

    seed: int
    media_type: str
    path: str = ""
    b64: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The content of a 200, which a dialect formats.

    Attributes:
        base_url: this server's origin as the caller addressed it, without a trailing slash.
        created: seconds since 1970.
        filtered: the content filter blocked the edit; only for dialects that answer 200 in this case.
    """

    request: EditRequest
    outputs: list[Output]
    base_url: str
    call_id: str
    created: int
    filtered: bool = False


@dataclass(slots=True)
class Refusal(Exception):
    """An error answer to a call.

    Attributes:
        reason: `rpm`, `concurrency`, `quota`, `model`, `moderation`, or empty if the status is enough.
        param: the invalid form field, or empty.
        code: a more specific code than the status, if the dialect has one.
        wait_s: seconds until a limit allows a call again; None if unknown.
    """

    status: int
    message: str
    reason: str = ""
    param: str = ""
    code: str = ""
    current: int = 11
    limit: int = 10
    wait_s: float | None = None


def invalid(message: str, param: str = "", code: str = "") -> Refusal:
    """A refusal of an invalid request."""
    return Refusal(400, message, param=param, code=code)


def text(form: FormData, name: str, default: str = "") -> str:
    """The first value of a field as text.

    Raises:
        Refusal: the field is a file.
    """
    value = form.get(name, default)
    if isinstance(value, UploadFile):
        raise invalid(f"{name} must be a form value, not a file", name)
    return value


def prompt_of(form: FormData, max_length: int, too_long_code: str = "") -> str:
    """The prompt, of 1 to ``max_length`` characters.

    Raises:
        Refusal: it is missing or too long.
    """
    prompt = text(form, "prompt")
    if not prompt.strip():
        raise invalid("prompt is required", "prompt")
    if len(prompt) > max_length:
        raise invalid(
            f"prompt must be at most {max_length} characters, got {len(prompt)}", "prompt", code=too_long_code
        )
    return prompt


def integer(form: FormData, name: str, low: int, high: int, default: int | None) -> int | None:
    """A whole number from ``low`` to ``high``; ``default`` if the field is absent.

    Raises:
        Refusal: it is not a whole number or out of range.
    """
    value = text(form, name)
    if name not in form:
        return default
    if not re.fullmatch(r"-?[0-9]{1,18}", value):
        raise invalid(f"{name} must be an integer, got {value[:40]!r}", name)
    if not low <= int(value) <= high:
        raise invalid(f"{name} must be between {low} and {high}, got {value}", name)
    return int(value)


def decimal(form: FormData, name: str, low: float, high: float, default: float) -> float:
    """A number from ``low`` to ``high``; ``default`` if the field is absent.

    Raises:
        Refusal: it is not a number or out of range.
    """
    value = text(form, name)
    if name not in form:
        return default
    try:
        number = float(value)
    except ValueError:
        raise invalid(f"{name} must be a number, got {value[:40]!r}", name) from None
    if not (math.isfinite(number) and low <= number <= high):
        raise invalid(f"{name} must be between {low} and {high}, got {value[:40]}", name)
    return number


def choice(form: FormData, name: str, allowed: tuple[str, ...], default: str) -> str:
    """One of the allowed values, case-sensitive; ``default`` if the field is absent.

    Raises:
        Refusal: the value is not allowed.
    """
    value = text(form, name, default)
    if value not in allowed:
        raise invalid(f"{name} must be one of {', '.join(allowed)}, got {value[:40]!r}", name)
    return value


def pixels(form: FormData, name: str = "size") -> tuple[int, int] | None:
    """A size ``WIDTHxHEIGHT``; None if the field is absent or `auto`.

    Raises:
        Refusal: it has another format, or a side is not between 1 and 4096.
    """
    value = text(form, name, "auto")
    if value in {"auto", ""}:
        return None
    match = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})", value)
    if match is None or not all(1 <= int(side) <= 4096 for side in match.groups()):
        raise invalid(f"{name} must be WIDTHxHEIGHT with sides of 1 to 4096, got {value[:40]!r}", name)
    return int(match[1]), int(match[2])


async def one_image(form: FormData, *names: str, max_count: int = 1) -> tuple[bytes, Header]:
    """The first image among the named file parts, and its header.

    Raises:
        Refusal: there is no image, more than ``max_count``, the part is not a file, or not a PNG, JPEG or WebP.
    """
    parts = [part for name in names for part in form.getlist(name)]
    if not parts:
        raise invalid("image is required", "image")
    if len(parts) > max_count:
        raise invalid(f"image must be given at most {max_count} time(s), got {len(parts)}", "image")
    if not isinstance(parts[0], UploadFile):
        raise invalid("image must be a file", "image")
    data = await parts[0].read()
    try:
        return data, read_header(data)
    except UnreadableImage as error:
        raise invalid(f"image is not a readable PNG, JPEG or WebP: {error}", "image") from error
