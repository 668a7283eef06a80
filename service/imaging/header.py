"""An image's kind, size and cost from its header: before it is admitted, before it is opened.

Runs on the event loop. It reads a few fields of an ordinary file, and never more than a bounded
number of segments, chunks, blocks or bytes: at most some milliseconds of work for any upload.
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
from tidegate.service.imaging.work import Work as Work  # callers take it from here

SizeCheck = Callable[[Size], None]
_Reader = Callable[[bytes], Found]


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of an image before it is decoded."""

    kind: str  # Pillow's name of the format
    size: Size  # (width, height) as declared, before orientation
    work: Work


_READERS: dict[str, _Reader] = {
    "JPEG": jpeg.read,
    "PNG": png.read,
    "WEBP": webp.read,
    "GIF": gif.read,
    "TIFF": tiff.read,
    "BMP": bmp.read,
}


def inspect(data: bytes, check_size: SizeCheck, limit_s: float = math.inf) -> Header:
    """Return what the header of `data` says.

    `check_size` is called with every size the file declares. Raises UnsupportedImageType,
    UndecodableImage, ImageTooLarge when decoding would take more than `limit_s` CPU seconds, or
    whatever `check_size` raises.
    """
    kind = sniff(data)
    return _inspect(kind, _READERS[kind], data, check_size, limit_s)


def inspect_whole(
    kind: str, data: bytes, check_size: SizeCheck, limit_s: float = math.inf
) -> Header:
    """Do what `inspect` does for data of a known kind, without its bound on time.

    For a decoding thread: nothing that lies far on in the file is left out of the work.
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
    except (struct.error, IndexError, ValueError):  # cut short, unknown, or without pixels
        raise undecodable(kind, data) from None
    check_work(found, limit_s)
    return Header(kind, found.sizes[0], found.work)
