"""PNG: the size in its header, and the work of its rows, chunks and texts."""

from __future__ import annotations

from service.imaging.geometry import Size
from service.imaging.work import Found, Work

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_WALKED = 2_048  # chunks; a file with more is taken to have as many as are allowed
_MOST = 8_192

_FIXED_S = 3e-4
_PIXEL_S = 7e-9
_ALPHA_PIXEL_S = 12e-9
_INTERLACED_PIXEL_S = 10e-9
_RAW_BYTE_S = 2.6e-9
_BYTE_S = 13e-9
_CHUNK_S = 6e-6
_COMPRESSED = (b"iCCP", b"zTXt", b"iTXt")
_ORDINARY_TEXTS = 4  # of a few kilobytes, as programs write them
_TEXT_S = 1.4e-3  # of one that inflates to 1 MB, which is as far as Pillow goes
_TRANSPARENCY_BYTES = 1 << 12


def read(data: bytes) -> Found:
    """Return the size and the work."""
    if data[12:16] != b"IHDR":
        raise ValueError("no PNG header")
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    depth, colour, interlaced = data[24], data[25], data[28]
    work = _work((width, height), depth, colour, bool(interlaced), data)
    parsing_s = _parsing_s(data)
    held = work.interpreter_s + parsing_s
    return Found(((width, height),), Work(work.seconds + parsing_s, held, work.peak_bytes))


def _parsing_s(data: bytes) -> float:
    """Return what Pillow spends on chunks, and on texts and profiles that it inflates."""
    at, texts = 8, -_ORDINARY_TEXTS
    for count in range(_WALKED):
        if at >= len(data):
            return count * _CHUNK_S + max(0, texts) * _TEXT_S
        texts += data[at + 4 : at + 8] in _COMPRESSED
        at += 12 + int.from_bytes(data[at : at + 4])
    return _MOST * _CHUNK_S + max(0, texts) * _TEXT_S


def _work(size: Size, depth: int, colour: int, interlaced: bool, data: bytes) -> Work:
    pixels = size[0] * size[1]
    raw = pixels * depth * _CHANNELS.get(colour, 4) / 8
    # Any of them may have a transparent colour, in a tRNS chunk before the pixels.
    alpha = colour in (4, 6) or b"tRNS" in data[:_TRANSPARENCY_BYTES]
    seconds = _FIXED_S + pixels * _PIXEL_S + raw * _RAW_BYTE_S + min(len(data), raw) * _BYTE_S
    if interlaced:
        seconds += pixels * _INTERLACED_PIXEL_S
    if alpha:
        seconds += pixels * _ALPHA_PIXEL_S
    held = 2e-4 + pixels * (8e-9 if alpha else 1.5e-9)
    return Work(seconds, held, 9 * pixels + (1 << 22))
