"""Read a PNG (https://www.w3.org/TR/png-3/)."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from jobs.foundation.errors import InputRejected
from jobs.images.picture import BROKEN_EXIF, Picture, check_pixels, exif_swaps_sides

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# First column, first row, column step, row step of Adam7's passes (https://www.w3.org/TR/png-3/#8Interlace).
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PIECE_BYTES = 1 << 16


def probe_png(data: bytes, max_pixels: int) -> Picture:
    """Read a PNG, see `probe`: its checksums and the length of its pixels, without decoding it."""
    header: _PngHeader | None = None
    pixels: _Inflater | None = None
    rotated = has_palette = ended = False
    for kind, body in _chunks(data):
        if header is None:
            header = _png_header(kind, body)
            check_pixels(header.width, header.height, max_pixels)
            pixels = _Inflater(header.inflated_bytes())
        elif kind == b"IDAT" and pixels is not None:
            if header.indexed and not has_palette:
                raise InputRejected("the PNG is broken: its palette is missing")
            pixels.feed(body)
        elif kind == b"PLTE":
            has_palette = True
        elif kind == b"acTL":
            raise InputRejected("the picture is an animated PNG: send a still picture")
        elif kind == b"eXIf":
            rotated = _block_swaps_sides(bytes(body))
        elif kind == b"IEND":
            ended = True
            break
    if header is None or pixels is None or not ended or not pixels.complete:
        raise InputRejected("the PNG is truncated: its end is missing")
    return Picture("image/png", header.width, header.height, rotated)


@dataclass
class _PngHeader:
    width: int
    height: int
    pixel_bits: int
    interlaced: bool
    indexed: bool

    def inflated_bytes(self) -> int:
        """Length of the inflated image data in bytes: each row is a filter byte and its pixels."""
        if not self.interlaced:
            return self._rows_bytes(self.width, self.height)
        total = 0
        for column, row, across, down in _ADAM7:
            total += self._rows_bytes(-((column - self.width) // across), -((row - self.height) // down))
        return total

    def _rows_bytes(self, width: int, height: int) -> int:
        return height * (1 + (width * self.pixel_bits + 7) // 8) if width > 0 and height > 0 else 0


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    view = memoryview(data)
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        if zlib.crc32(view[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise InputRejected(f"the PNG is broken: a checksum is wrong in the {length} bytes from byte {at}")
        yield data[at + 4 : at + 8], view[at + 8 : end - 4]
        at = end


def _png_header(kind: bytes, body: memoryview) -> _PngHeader:
    if kind != b"IHDR" or len(body) != 13:
        raise InputRejected("the PNG is broken: its header is missing")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", body)
    if not width or not height or depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise InputRejected("the PNG is broken: its header has invalid values")
    return _PngHeader(width, height, depth * _CHANNELS[colour], interlace == 1, colour == 3)


class _Inflater:
    """Inflates image data in pieces and counts the bytes. It stores none of them."""

    def __init__(self, expected: int) -> None:
        self._left = expected
        self._stream = zlib.decompressobj()

    @property
    def complete(self) -> bool:
        """Whether all bytes have come and the stream's own checksum is right."""
        return self._left == 0 and self._stream.eof

    def feed(self, body: memoryview) -> None:
        """Inflate the next part of the stream.

        Raises:
            InputRejected: the stream is broken, or longer than the header's size.
        """
        for start in range(0, len(body), _PIECE_BYTES):
            piece: bytes | memoryview = body[start : start + _PIECE_BYTES]
            try:
                while piece and not self._stream.eof:
                    self._left -= len(self._stream.decompress(piece, _PIECE_BYTES * 4))
                    piece = self._stream.unconsumed_tail
            except zlib.error as error:
                raise InputRejected(f"the PNG is broken: {error}") from error
            if self._left < 0:
                raise InputRejected("the PNG is broken: it has more pixels than its size")


def _block_swaps_sides(block: bytes) -> bool:
    exif = Image.Exif()
    try:
        exif.load(block)
        return exif_swaps_sides(exif)
    except BROKEN_EXIF:
        return False
