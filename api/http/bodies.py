"""Reading a request's body within bounds, refused while it is read and not after."""

from collections.abc import AsyncGenerator

from fastapi import Request
from starlette.exceptions import HTTPException

from jobs.foundation.errors import TooLarge

FORM_BYTES = 1024 * 1024
"""What a request may hold beside its picture, in bytes."""


def media_type(request: Request) -> str:
    """The body's media type without its parameters, lower-case; "" where none was named."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    """Whether a media type is JSON."""
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def unsupported(kind: str, *known: str) -> HTTPException:
    """The 415 that says what would be read."""
    return HTTPException(415, f"the body is {kind or 'of no named type'}: send {' or '.join(known)}")


async def bounded(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """The body in pieces.

    Raises:
        TooLarge: it is announced to be, or turns out to be, over `limit` bytes.
    """
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced) > limit:
        raise TooLarge(f"the body has {int(announced):,} bytes: at most {limit:,}")
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise TooLarge(f"the body has over {limit:,} bytes")
        yield piece


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        TooLarge: over `limit` bytes.
    """
    return b"".join([piece async for piece in bounded(request, limit)])
