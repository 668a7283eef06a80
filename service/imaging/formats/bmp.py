"""BMP: the size from its header; decoding copies the pixels."""

from __future__ import annotations

import struct

from tidegate.service.imaging.work import Found, Work

_CORE_HEADER = 12
_HEADERS = (40, 52, 56, 64, 108, 124)
_FIXED_S = 3e-4
_PIXEL_S = 5e-9
_COLOUR_S = 0.4e-6


def read(data: bytes) -> Found:
    """Return the size and the work."""
    (header,) = struct.unpack_from("<I", data, 14)
    if header == _CORE_HEADER:
        width, height = struct.unpack_from("<HH", data, 18)
        colours = 256
    elif header in _HEADERS:
        width, height = struct.unpack_from("<Ii", data, 18)
        # As in Pillow: only the last byte decides the sign.
        height = abs(height) if height >> 24 == -1 else height & 0xFFFFFFFF
        colours = min(65_536, int.from_bytes(data[46:50], "little") or 256)
    else:
        raise ValueError("no BMP header")
    pixels = width * height
    held = 2e-4 + colours * _COLOUR_S + pixels * 1e-9
    work = Work(_FIXED_S + held + pixels * _PIXEL_S, held, 6 * pixels + (1 << 22))
    return Found(((width, height),), work)
