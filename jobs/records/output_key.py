"""The default key of a job's output, the check of an `output_key` template, and texts as parts of a key."""

import hashlib
import re

from jobs.foundation.ids import batch_of
from jobs.foundation.media_types import EXTENSIONS

OUTPUT_KEY_FIELDS = ("custom_id", "job_id", "batch_id", "ext")
"""The placeholders of an `output_key` template."""
_MAX_PART = 128
_UNSAFE = re.compile(r"[^\w.@+=,()!~-]+")


def key_part(text: str) -> str:
    """`text` as one part of a key: readable, and different for two different texts.

    Each run of other characters than letters, digits and harmless signs becomes `-`. If the text changes by that, a
    hash of the whole text is appended.
    """
    safe = _UNSAFE.sub("-", text)[:_MAX_PART].strip(".") or "-"
    # A text that ends like our hashes is hashed too, so that no text equals the hashed form of another.
    if safe == text and not re.search(r"~[0-9a-f]{10}$", text):
        return safe
    return f"{safe}~{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:10]}"


def default_key(custom_id: str | None, job_id: str, media_type: str) -> str:
    """The key of a result whose job has no `output_key`."""
    batch_id = batch_of(job_id)
    extension = EXTENSIONS.get(media_type, "bin")
    if batch_id is None:
        return f"outputs/{job_id}.{extension}"
    return f"outputs/{batch_id}/{key_part(custom_id) if custom_id else job_id}.{extension}"


def check_output_key(template: str) -> None:
    """Check that an `output_key` template can become an object's key.

    Raises:
        ValueError: the template is invalid; the message says why.
    """
    names = re.findall(r"\{([^{}]*)\}", template)
    unknown = sorted(set(names) - set(OUTPUT_KEY_FIELDS))
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in OUTPUT_KEY_FIELDS)
        raise ValueError(f"unknown placeholder {{{unknown[0]}}}: use {known}")
    rest = re.sub(r"\{[^{}]*\}", "x", template)
    if "{" in rest or "}" in rest:
        raise ValueError("a brace is not closed")
    if not rest or len(template) > 512:
        raise ValueError("between 1 and 512 characters")
    path = rest.removeprefix("s3://")
    if (
        path.startswith("/")
        or any(part in {"", ".", ".."} for part in path.split("/"))
        or re.search(r"[\x00-\x1f\x7f\\]", path)
    ):
        raise ValueError("a key has no empty, '.' or '..' part, no backslash, and does not begin or end with '/'")
