"""Positions of an image's sizes, lengths and counts, for mutators that change them. Pure."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from load_tests.fuzz.formats import PNG_SIGNATURE

_MOST = 400  # limit of fields per image, because a mutated length can point anywhere
_JPEG_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xDA)}
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True, slots=True)
class Field:
    """An unsigned integer of `width` bytes at offset `at`."""

    at: int
    width: int
    order: str  # "<" or ">"


def fields(data: bytes) -> list[Field]:
    """Return the fields of the format that the first bytes identify; none if it is unknown."""
    for magic, find in _FORMATS:
        if data.startswith(magic):
            found = []
            for field in find(data):
                if field.at + field.width <= len(data):
                    found.append(field)
                if len(found) >= _MOST:
                    break
            return found
    return []


def _jpeg(data: bytes) -> Iterator[Field]:
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _JPEG_WITHOUT_LENGTH:
            at += 2
            continue
        yield Field(at + 2, 2, ">")
        if marker in _JPEG_FRAMES:
            yield Field(at + 4, 1, ">")  # precision
            yield Field(at + 5, 2, ">")  # height
            yield Field(at + 7, 2, ">")  # width
            yield Field(at + 9, 1, ">")  # components
            yield Field(at + 11, 1, ">")  # sampling of the first
        if marker == 0xDA:
            return
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))


def _png(data: bytes) -> Iterator[Field]:
    at = len(PNG_SIGNATURE)
    while at + 8 <= len(data):
        yield Field(at, 4, ">")
        kind = data[at + 4 : at + 8]
        if kind == b"IHDR":
            yield Field(at + 8, 4, ">")
            yield Field(at + 12, 4, ">")
            for byte in range(16, 21):  # depth, colour type, compression, filter, interlace
                yield Field(at + byte, 1, ">")
        if kind in (b"acTL", b"fcTL"):
            for word in range(8, 28, 4):
                yield Field(at + word, 4, ">")
        at += 12 + int.from_bytes(data[at : at + 4])


def _webp(data: bytes) -> Iterator[Field]:
    yield Field(4, 4, "<")
    at = 12
    while at + 8 <= len(data):
        yield Field(at + 4, 4, "<")
        kind = data[at : at + 4]
        for byte in {b"VP8X": (8, 12, 15), b"VP8L": (9,), b"VP8 ": (14, 16)}.get(kind, ()):
            yield Field(at + byte, 4 if kind == b"VP8L" else 2, "<")
        if kind == b"ANMF":
            for byte in (8, 11, 14, 17, 20):
                yield Field(at + byte, 2, "<")
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2


def _gif(data: bytes) -> Iterator[Field]:
    yield Field(6, 2, "<")
    yield Field(8, 2, "<")
    yield Field(10, 1, "<")
    at = data.find(b"!\xf9\x04")
    while at >= 0:
        yield Field(at + 3, 1, "<")  # disposal, transparency
        at = data.find(b"!\xf9\x04", at + 1)
    at = data.find(b",", 13)
    while at >= 0:
        for byte in (1, 3, 5, 7):
            yield Field(at + byte, 2, "<")
        yield Field(at + 9, 1, "<")
        yield Field(at + 10, 1, "<")  # the code size of LZW
        at = data.find(b",", at + 1)


def _bmp(_data: bytes) -> Iterator[Field]:
    for at in (2, 10, 14, 18, 22, 30, 34, 38, 42, 46, 50, 54):
        yield Field(at, 4, "<")
    yield Field(26, 2, "<")
    yield Field(28, 2, "<")


def _tiff(data: bytes) -> Iterator[Field]:
    order = "<" if data[:2] == b"II" else ">"
    yield Field(4, 4, order)
    if len(data) < 8:
        return
    start = struct.unpack_from(f"{order}I", data, 4)[0]
    if start + 2 > len(data):
        return
    yield Field(start, 2, order)
    there = (len(data) - start - 2) // 12  # a damaged count can be 65,535
    for number in range(min(there, struct.unpack_from(f"{order}H", data, start)[0])):
        at = start + 2 + 12 * number
        for byte, width in ((0, 2), (2, 2), (4, 4), (8, 4), (8, 2)):
            yield Field(at + byte, width, order)


_FORMATS: tuple[tuple[bytes, Callable[[bytes], Iterator[Field]]], ...] = (
    (b"\xff\xd8", _jpeg),
    (PNG_SIGNATURE, _png),
    (b"RIFF", _webp),
    (b"GIF", _gif),
    (b"BM", _bmp),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
)
