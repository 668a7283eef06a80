"""WebP: the size of its canvas, and the cost of libwebp's animation decoder.

libwebp rejects a frame that does not fit into the canvas.
"""

from __future__ import annotations

from tidegate.service.imaging.geometry import Size
from tidegate.service.imaging.work import Found, Work

_FIXED_S = 3e-4
_PIXEL_S = 12e-9
_LOSSY_BYTE_S = 80e-9
_LOSSLESS_BYTE_S = 20e-9


def read(data: bytes) -> Found:
    """Return the size of the canvas and the work."""
    canvas = webp_canvas(data)
    pixels = canvas[0] * canvas[1]
    per_byte = _LOSSLESS_BYTE_S if data[12:16] == b"VP8L" else _LOSSY_BYTE_S
    seconds = _FIXED_S + pixels * _PIXEL_S + len(data) * per_byte
    return Found((canvas,), Work(seconds, 2e-4 + pixels * 9e-9, 21 * pixels + (1 << 22)))


def webp_canvas(data: bytes) -> Size:
    """Read (width, height) from the first chunk: VP8X, VP8L (lossless) or VP8 (lossy)."""
    chunk, body = data[12:16], data[20:30]
    if len(body) < 10:
        raise ValueError("no WEBP header")
    if chunk == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk != b"VP8 ":
        raise ValueError("no WEBP header")
    width, height = int.from_bytes(body[6:8], "little"), int.from_bytes(body[8:10], "little")
    return width & 0x3FFF, height & 0x3FFF
