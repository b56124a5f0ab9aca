"""Pictures that come inside a `data:` URL (RFC 2397)."""

import base64
import binascii

_HEAD_MAX = 200


def decode_data_url(text: str, max_bytes: int) -> bytes:
    """The bytes of a base64 `data:` URL. Its media type is not believed and not returned.

    Args:
        text: `data:<media type>;base64,<base64>`; standard alphabet with padding, no white space.
        max_bytes: most that may come out; checked before anything is decoded.

    Raises:
        ValueError: one sentence about what is wrong; it does not repeat the data.
    """
    head, comma, body = text.partition(",") if text[:5].lower() == "data:" else ("", "", "")
    if not comma or len(head) > _HEAD_MAX:
        raise ValueError("it is no data: URL (data:image/png;base64,...)")
    if not head.lower().endswith(";base64"):
        raise ValueError("a data: URL must be base64 (data:image/png;base64,...)")
    if len(body) // 4 * 3 - body[-2:].count("=") > max_bytes:
        raise ValueError(f"it holds more than {max_bytes:,} bytes")
    try:
        data = base64.b64decode(body.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("its base64 is broken") from error
    if not data:
        raise ValueError("it holds no bytes")
    return data
