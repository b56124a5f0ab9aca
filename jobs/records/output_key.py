"""The default key of a job's output, and the form of a text inside a key."""

import hashlib
import re

from jobs.foundation.ids import batch_of
from jobs.foundation.media_types import EXTENSIONS

_PART_MAX = 128
_UNSAFE = re.compile(r"[^\w.@+=,()!~-]+")


def key_part(text: str) -> str:
    """`text` as one part of a key: readable, and never the same for two different texts.

    Whatever is no letter, digit or harmless sign becomes `-`; where something had to be replaced, a hash of the whole
    is appended.
    """
    safe = _UNSAFE.sub("-", text)[:_PART_MAX].strip(".") or "-"
    # A text that ends like our hashes is hashed too: nobody can write the name that another text is given.
    if safe == text and not re.search(r"~[0-9a-f]{10}$", text):
        return safe
    return f"{safe}~{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:10]}"


def default_key(custom_id: str | None, job_id: str, media_type: str) -> str:
    """Where a result lies unless `output_key` says otherwise."""
    batch_id = batch_of(job_id)
    extension = EXTENSIONS.get(media_type, "bin")
    if batch_id is None:
        return f"outputs/{job_id}.{extension}"
    return f"outputs/{batch_id}/{key_part(custom_id) if custom_id else job_id}.{extension}"
