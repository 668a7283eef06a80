"""Helpers for the structure checks: a count against its limit, and the number of EXIF tags."""

from __future__ import annotations

import struct

from tidegate.service.errors import UndecodableImage

_ENTRY_BYTES = 12


def at_most(limit: int, count: int, kind: str, what: str) -> None:
    """Raise UndecodableImage if `count` of `what` in a file of this kind exceeds `limit`."""
    if count > limit:
        raise UndecodableImage(f"The {kind} has more than {limit:,} {what}.")


def exif_tags(block: bytes) -> int:
    """Return how many tags Pillow will read from the first directory of a TIFF-like block."""
    order = ">" if block.startswith(b"MM") else "<"
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
    except struct.error:
        return 0
    return int(min(count, (len(block) - start) // _ENTRY_BYTES))
