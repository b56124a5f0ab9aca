"""Pictures inside `data:` URLs (RFC 2397)."""

import base64
import binascii

_MAX_HEAD = 200


def decode_data_url(text: str, max_bytes: int) -> bytes:
    """Decode a base64 `data:` URL. Its media type is ignored: callers detect it from the bytes.

    Args:
        text: `data:<media type>;base64,<base64>`; standard alphabet with padding, no white space.
        max_bytes: maximum of the decoded bytes; checked before decoding.

    Raises:
        ValueError: the URL is invalid or too long; the message does not repeat the data.
    """
    head, comma, body = text.partition(",") if text[:5].lower() == "data:" else ("", "", "")
    if not comma or len(head) > _MAX_HEAD:
        raise ValueError("it is not a data: URL (data:image/png;base64,...)")
    if not head.lower().endswith(";base64"):
        raise ValueError("a data: URL must be base64 (data:image/png;base64,...)")
    if len(body) // 4 * 3 - body[-2:].count("=") > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    try:
        data = base64.b64decode(body.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("its base64 is invalid") from error
    if not data:
        raise ValueError("it has no bytes")
    return data
