"""GIF: the sizes of the screen and of the first frame, which Pillow allocates before decoding."""

from __future__ import annotations

import struct

from tidegate.service.imaging.bounds import at_most
from tidegate.service.imaging.geometry import Size
from tidegate.service.imaging.work import Found, Work

# Blocks of 255 bytes before the first frame: 1 MB of comments, XMP and profiles.
MAX_GIF_BLOCKS = 4_096

_EXTENSION, _FRAME, _TRAILER = 0x21, 0x2C, 0x3B
_COMMENT, _APPLICATION, _LOOP = 0xFE, 0xFF, b"NETSCAPE2.0"

_FIXED_S = 3e-4
_PIXEL_S = 17e-9  # with a transparent colour; without, 12
_BYTE_S = 12e-9
_BLOCK_S = 2e-6


def read(data: bytes) -> Found:
    """Return the sizes of the screen, the first frame and both together, and the work."""
    screen = struct.unpack_from("<HH", data, 6)
    frame, blocks = _first_frame(data)
    if frame is None:
        raise ValueError("no GIF header")
    left, upper, width, height = frame
    grown = max(screen[0], left + width), max(screen[1], upper + height)
    sizes: tuple[Size, ...] = grown, (width, height)
    pixels = max(width * height for width, height in sizes)
    held = 2e-4 + blocks * _BLOCK_S + pixels * 8e-9
    seconds = _FIXED_S + pixels * _PIXEL_S + len(data) * _BYTE_S + blocks * _BLOCK_S
    return Found(sizes, Work(seconds, held, 8 * pixels + (1 << 22)))


def _first_frame(data: bytes) -> tuple[tuple[int, int, int, int] | None, int]:
    """Return (left, upper, width, height) of the first frame, and the blocks before it."""
    at, blocks = 13 + _palette_bytes(data[10]), 0
    while at < len(data) and data[at] != _TRAILER:
        if data[at] == _FRAME:
            return struct.unpack_from("<HHHH", data, at + 1), blocks
        at, blocks = (
            _after_extension(data, at, blocks) if data[at] == _EXTENSION else (at + 1, blocks + 1)
        )
        at_most(MAX_GIF_BLOCKS, blocks, "GIF", "blocks before its image")
    return None, blocks


def _after_extension(data: bytes, at: int, blocks: int) -> tuple[int, int]:
    """Return where Pillow continues after the extension at `at`, and the blocks up to there.

    An empty block ends the extension, except among the first blocks that Pillow always reads.
    """
    in_any_case, at = _read_in_any_case(data, at), at + 2
    while at < len(data) and (data[at] or in_any_case > 0):
        at, blocks, in_any_case = at + 1 + data[at], blocks + 1, in_any_case - 1
        at_most(MAX_GIF_BLOCKS, blocks, "GIF", "blocks before its image")
    return at + 1, blocks + 1


def _read_in_any_case(data: bytes, at: int) -> int:
    """Return how many blocks of an extension Pillow always reads, even if one is empty."""
    if data[at + 1] == _COMMENT:
        return 0
    looped = data[at + 1] == _APPLICATION and data.startswith(_LOOP, at + 3)
    return 2 if looped and data[at + 2] >= len(_LOOP) else 1


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
