"""Reads OpenAI's batch lines: `{"custom_id", "method", "url", "body"}` (https://platform.openai.com/docs/guides/batch)."""

from typing import Any

from jobs.foundation.errors import FieldError

_IGNORED_FIELDS = frozenset({"n", "user", "response_format", "stream", "partial_images", "moderation"})
"""Fields of a body that do not change the edit."""


def is_openai_line(entry: dict[str, Any]) -> bool:
    """Whether a line has OpenAI's format."""
    return isinstance(entry.get("body"), dict) and ("url" in entry or "method" in entry)


def read_openai_line(entry: dict[str, Any]) -> tuple[dict[str, Any], list[FieldError]]:
    """The job's fields of one line, and a fault for each request other than the edit of one picture."""
    faults = []
    url = str(entry.get("url", "")).rstrip("/")
    if url and not url.endswith("/images/edits"):
        faults.append(FieldError("url", "only /v1/images/edits is supported", "unsupported"))
    if str(entry.get("method", "POST")).upper() != "POST":
        faults.append(FieldError("method", "must be POST", "unsupported"))
    body = {name: value for name, value in entry["body"].items() if value is not None}
    if body.get("n", 1) != 1:
        faults.append(FieldError("body.n", "only one result per item is supported", "unsupported"))
    images = _images(body)
    if len(images) > 1:
        faults.append(FieldError("body.images", "only one picture per item is supported", "unsupported"))
    fields = {name: value for name, value in body.items() if name not in _IGNORED_FIELDS}
    if images:
        fields["image"] = images[0]
    if entry.get("custom_id") is not None:
        fields["custom_id"] = entry["custom_id"]
    return fields, faults


def _images(body: dict[str, Any]) -> list[Any]:
    """Remove the pictures from a body and return them: `image`, `image_url`, or `images` of either form."""
    images: list[Any] = []
    for name in ("image", "images", "image_url"):
        value = body.pop(name, None)
        images += value if isinstance(value, list) else [] if value is None else [value]
    return [_address(image) for image in images]


def _address(image: Any) -> Any:
    if not isinstance(image, dict):
        return image
    address = image.get("image_url", image.get("url"))
    return _address(address) if isinstance(address, dict) else address
