"""PNG: the size from its header, and the cost of its rows, chunks and texts."""

from __future__ import annotations

from tidegate.service.imaging.bounds import at_most
from tidegate.service.imaging.geometry import Size
from tidegate.service.imaging.work import Found, Work

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_WALKED = 2_048  # chunks that are read; a file with more is assumed to have _MOST
_MOST = 8_192

_FIXED_S = 3e-4
_PIXEL_S = 7e-9
_ALPHA_PIXEL_S = 12e-9
_INTERLACED_PIXEL_S = 10e-9
_RAW_BYTE_S = 2.6e-9
_BYTE_S = 13e-9
_CHUNK_S = 6e-6
_COMPRESSED = (b"iCCP", b"zTXt", b"iTXt")
_ORDINARY_TEXTS = 4  # of a few kilobytes, as many programs write them
_TEXT_S = 1.4e-3  # for a text that inflates to 1 MB, which is Pillow's limit


def read(data: bytes) -> Found:
    """Return the size and the work. Raises UndecodableImage for a second header."""
    kinds = _kinds(data)
    if kinds[:1] != [b"IHDR"]:
        raise ValueError("no PNG header")
    at_most(1, kinds.count(b"IHDR"), "PNG", "header")  # Pillow uses the size of the last one
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    depth, colour, interlaced = data[24], data[25], data[28]
    bits = depth * _CHANNELS.get(colour, 4)
    work = _work((width, height), bits, bool(interlaced), colour in (4, 6) or _keyed(kinds), data)
    parsing_s = _parsing_s(kinds)
    held = work.interpreter_s + parsing_s
    return Found(((width, height),), Work(work.seconds + parsing_s, held, work.peak_bytes))


def _kinds(data: bytes) -> list[bytes]:
    """Return the kinds of the chunks before the end of the image, at most _WALKED."""
    at, kinds = 8, list[bytes]()
    while at < len(data) and len(kinds) < _WALKED and (kind := data[at + 4 : at + 8]) != b"IEND":
        kinds.append(kind)
        at += 12 + int.from_bytes(data[at : at + 4])
    return kinds


def _keyed(kinds: list[bytes]) -> bool:
    """Return whether the PNG may have a transparent colour, in a chunk before the pixels."""
    return b"tRNS" in kinds or (len(kinds) == _WALKED and b"IDAT" not in kinds)


def _parsing_s(kinds: list[bytes]) -> float:
    """Return Pillow's seconds for chunks, and for texts and profiles that it inflates."""
    texts = sum(map(kinds.count, _COMPRESSED)) - _ORDINARY_TEXTS
    chunks = len(kinds) if len(kinds) < _WALKED else _MOST
    return chunks * _CHUNK_S + max(0, texts) * _TEXT_S


def _work(size: Size, bits: int, interlaced: bool, alpha: bool, data: bytes) -> Work:
    pixels = size[0] * size[1]
    raw = pixels * bits / 8
    seconds = _FIXED_S + pixels * _PIXEL_S + raw * _RAW_BYTE_S + min(len(data), raw) * _BYTE_S
    if interlaced:
        seconds += pixels * _INTERLACED_PIXEL_S
    if alpha:
        seconds += pixels * _ALPHA_PIXEL_S
    held = 2e-4 + pixels * (8e-9 if alpha else 1.5e-9)
    return Work(seconds, held, 9 * pixels + (1 << 22))
