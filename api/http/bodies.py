"""Reads request bodies with a size limit, which is enforced while the body is read."""

from collections.abc import AsyncGenerator

from fastapi import Request
from starlette.exceptions import HTTPException

from jobs.foundation.errors import TooLarge

FORM_BYTES = 1024 * 1024
"""Size limit for everything but the picture in a request, in bytes."""


def media_type(request: Request) -> str:
    """The body's media type in lower case, without parameters; "" if the header is missing."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    """Whether a media type is JSON."""
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def unsupported(kind: str, *known: str) -> HTTPException:
    """A 415 error that names the supported media types."""
    return HTTPException(415, f"the content type {kind or '(none)'} is not supported: send {' or '.join(known)}")


async def bounded(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """The body in chunks.

    Raises:
        TooLarge: `Content-Length` or the body itself is over `limit` bytes.
    """
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"the body has {int(declared):,} bytes: at most {limit:,}")
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"the body has over {limit:,} bytes")
        yield chunk


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        TooLarge: over `limit` bytes.
    """
    return b"".join([chunk async for chunk in bounded(request, limit)])
