"""Recognise features of a format that no decoder here supports, for the error's text. Pure.

Called only for files that could not be decoded: it distinguishes unsupported from corrupt files,
and does not affect which files are decoded.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from tidegate.service.errors import UndecodableImage
from tidegate.service.imaging.structure import header_segments

Feature = tuple[str, str]  # (what is not supported, what to send instead)

_JPEG_PROCESSES = {
    0xF7: "JPEG-LS",
    **dict.fromkeys((0xC3, 0xCB), "Lossless JPEG of this kind"),
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF, 0xDE), "Hierarchical JPEG"),
}
_FRAMES = {*range(0xC0, 0xD0), 0xDE, 0xF7} - {0xC4, 0xC8, 0xCC}

_CHUNK_NAME = re.compile(rb"[A-Z0-9 ]{4}")

_BITS, _COMPRESSION, _PHOTOMETRIC, _MAX_TIFF_TAGS = 258, 259, 262, 4_096
_TIFF_TYPES = {3: "H", 4: "I"}
_COMPRESSIONS = {
    6: "old-style JPEG",
    9: "JBIG",
    10: "JBIG",
    32766: "NeXT run lengths",
    32809: "ThunderScan",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34676: "SGI LogLuv",
    34677: "SGI LogLuv",
    34712: "JPEG 2000",
    34887: "LERC",
    50001: "WebP",
    34892: "lossy JPEG of a raw photograph",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_PHOTOMETRICS = {
    4: "a transparency mask",
    9: "ICC L*a*b*",
    10: "ITU L*a*b*",
    32803: "raw sensor values",
    32844: "LogL",
    32845: "LogLuv",
    34892: "raw sensor values",
}
_ANY_DEPTH = frozenset(range(1, 65))
_GREY_DEPTHS, _COLOUR_DEPTHS = frozenset({1, 2, 4, 8, 12, 16, 32}), frozenset({8, 16})
_DEPTHS = {  # bits per sample by photometric interpretation
    **dict.fromkeys((0, 1), _GREY_DEPTHS),
    **dict.fromkeys((2, 5, 6, 8), _COLOUR_DEPTHS),  # RGB, CMYK, YCbCr, L*a*b*
    3: frozenset({1, 2, 4, 8}),  # a palette
}


def unsupported_feature(kind: str, data: bytes) -> str | None:
    """Return a sentence about the unsupported feature of format `kind` that `data` uses.

    None if none is recognised. A file that is also damaged counts as unsupported.
    """
    try:
        found = _FEATURES[kind](data)
    except (struct.error, IndexError, UndecodableImage):  # truncated header, or beyond a limit
        return None
    return f"{found[0]} is not supported; send {found[1]}." if found else None


def _jpeg(data: bytes) -> Feature | None:
    for marker, start, _ in header_segments(data):
        if marker in _FRAMES:
            return _jpeg_frame(marker, bits=data[start], components=data[start + 5])
    return None


def _jpeg_frame(marker: int, bits: int, components: int) -> Feature | None:
    if marker in _JPEG_PROCESSES:
        return _JPEG_PROCESSES[marker], "baseline or progressive JPEG of 8 bits per sample"
    if bits != 8 and 2 <= bits <= 16:
        return f"{bits}-bit JPEG", "8 bits per sample"
    if components == 2 or 5 <= components <= 8:
        return f"JPEG of {components} components", "1, 3 or 4"
    return None


def _png(data: bytes) -> Feature | None:
    if data[12:16] == b"CgBI":
        return "PNG as Xcode rewrites it for iOS (CgBI)", "the PNG that it was made from"
    return None


def _webp(data: bytes) -> Feature | None:
    chunk = data[12:16]
    if _CHUNK_NAME.fullmatch(chunk) and chunk not in (b"VP8 ", b"VP8L", b"VP8X"):
        return f"WebP of {chunk.decode().strip()} data", "VP8 or VP8L"
    return None


def _bmp(data: bytes) -> Feature | None:
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:
        return None
    if header not in (16, 40, 52, 56, 64, 108, 124):
        return (f"BMP with a header of {header} bytes", "one of 40") if header < 128 else None
    (bits,) = struct.unpack_from("<H", data, 28)
    compression = struct.unpack_from("<I", data, 30)[0] if header > 16 else 0
    if compression in (4, 5):
        inner = "JPEG" if compression == 4 else "PNG"
        return f"BMP that contains a {inner}", f"the {inner} itself"
    if bits in (2, 64):
        return f"{bits}-bit BMP", "8 or 24 bits per pixel"
    if compression in (3, 6):
        return "BMP with these bit masks", "8 or 24 bits per pixel"
    return None


def _tiff(data: bytes) -> Feature | None:
    if data[8:10] == b"CR":
        return "A raw photograph (CR2)", "a JPEG made from it"
    tags = _tiff_tags(data)
    (compression,) = tags.get(_COMPRESSION, (1,))
    (photometric,) = tags.get(_PHOTOMETRIC, (0,))
    if compression in _COMPRESSIONS:
        return f"TIFF compressed with {_COMPRESSIONS[compression]}", "LZW, Deflate or uncompressed"
    if photometric in _PHOTOMETRICS:
        return f"TIFF of {_PHOTOMETRICS[photometric]}", "RGB or grey"
    depths = set(tags.get(_BITS, (1,)))
    if not depths <= _ANY_DEPTH:
        return None
    if len(depths) > 1:
        depth = " and ".join(map(str, sorted(depths)))
        return f"TIFF that mixes samples of {depth} bits", "8 bits per sample"
    if not depths <= _DEPTHS.get(photometric, _ANY_DEPTH):
        return f"TIFF of {depths.pop()} bits per sample in this colour space", "8 bits per sample"
    return None


def _tiff_tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """Return the three tags above from the first directory: SHORT or LONG, at most eight values."""
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    tags: dict[int, tuple[int, ...]] = {}
    for at in range(start + 2, start + 2 + 12 * min(count, _MAX_TIFF_TAGS), 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", data, at)
        named = tag in (_BITS, _COMPRESSION, _PHOTOMETRIC)
        if not named or kind not in _TIFF_TYPES or length == 0:
            continue
        values = f"{order}{min(length, 8 if tag == _BITS else 1)}{_TIFF_TYPES[kind]}"
        inline = struct.calcsize(values) <= 4
        where = at + 8 if inline else struct.unpack_from(f"{order}I", data, at + 8)[0]
        tags[tag] = struct.unpack_from(values, data, where)
    return tags


_FEATURES: dict[str, Callable[[bytes], Feature | None]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "BMP": _bmp,
    "GIF": lambda data: None,
    "TIFF": _tiff,
}
