"""Read an image's kind, size and decoding cost from its header, before it is admitted or opened.

Runs on the event loop. It reads a few fields of an ordinary file, and at most a limited number of
segments, chunks, blocks or bytes: a few milliseconds for any upload.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass

from tidegate.service.imaging.formats import bmp, gif, jpeg, png, tiff, webp
from tidegate.service.imaging.geometry import Size
from tidegate.service.imaging.kinds import sniff, undecodable
from tidegate.service.imaging.work import Found, check_work
from tidegate.service.imaging.work import Work as Work  # re-exported

SizeCheck = Callable[[Size], None]
_Reader = Callable[[bytes], Found]


@dataclass(frozen=True, slots=True)
class Header:
    """The properties of an image that are known before it is decoded."""

    kind: str  # Pillow's name of the format
    size: Size  # (width, height) as declared, before orientation
    work: Work
    estimated: bool = False  # the work, because the file is too long to read all of it


_READERS: dict[str, _Reader] = {
    "JPEG": jpeg.read,
    "PNG": png.read,
    "WEBP": webp.read,
    "GIF": gif.read,
    "TIFF": tiff.read,
    "BMP": bmp.read,
}


def inspect(data: bytes, check_size: SizeCheck, limit_s: float = math.inf) -> Header:
    """Return the header of `data`.

    `check_size` is called with every size that the file declares. Raises UnsupportedImageType,
    UndecodableImage, ImageTooLarge if decoding would take more than `limit_s` CPU seconds, or what
    `check_size` raises.
    """
    kind = sniff(data)
    return _inspect(kind, _READERS[kind], data, check_size, limit_s)


def inspect_whole(
    kind: str, data: bytes, check_size: SizeCheck, limit_s: float = math.inf
) -> Header:
    """Do the same as `inspect` for data of a known kind, but read the whole file.

    For decoding threads: the cost of a long JPEG is counted, not estimated from its beginning.
    """
    reader = jpeg.read_all if kind == "JPEG" else _READERS[kind]
    return _inspect(kind, reader, data, check_size, limit_s)


def _inspect(
    kind: str, read: _Reader, data: bytes, check_size: SizeCheck, limit_s: float
) -> Header:
    try:
        found = read(data)
        for size in found.sizes:
            check_size(size)
    except (struct.error, IndexError, ValueError):  # truncated, unknown, or without pixels
        raise undecodable(kind, data) from None
    check_work(found, limit_s)
    return Header(kind, found.sizes[0], found.work, found.estimated)
