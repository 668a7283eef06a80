"""A file that lacks pixels is truncated, independent of its metadata and checksums."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from load_tests.fuzz.formats import ADAM7
from tests.unit.imaging.pictures import decoded, encode, noise, png, png_rows, tiff
from tidegate.service.errors import UndecodableImage
from tidegate.service.imaging.completeness import check_rows

WIDTH, HEIGHT = 37, 23
PICTURE = noise(WIDTH, HEIGHT)


def interlaced(rows: bytes, size: tuple[int, int] = (WIDTH, HEIGHT)) -> bytes:
    data = png(size, 8, 2, rows)
    header = b"IHDR" + data[16:28] + b"\1"
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def interlaced_rows(pixels: NDArray[np.uint8]) -> bytes:
    passes = (pixels[top::down, left::across] for left, top, across, down in ADAM7)
    return b"".join(png_rows(part) for part in passes if part.size)


def black(width: int, height: int) -> NDArray[np.uint8]:
    return np.zeros((height, width, 3), np.uint8)


@pytest.mark.parametrize("missing", [1, 10, 3 * WIDTH + 1, 1_000, 2_000])
@pytest.mark.parametrize("make", ["plain", "interlaced"])
def test_a_png_whose_stream_ends_early_is_truncated(make: str, missing: int) -> None:
    pixels = np.asarray(PICTURE)
    rows = png_rows(pixels) if make == "plain" else interlaced_rows(pixels)

    def file(rows: bytes) -> bytes:
        return png((WIDTH, HEIGHT), 8, 2, rows) if make == "plain" else interlaced(rows)

    assert np.array_equal(decoded(file(rows)), pixels)
    with pytest.raises(UndecodableImage):
        decoded(file(rows[:-missing]))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_a_whole_png_that_ends_in_black_is_decoded(mode: str) -> None:
    for width, height in ((1, 1), (8, 1), (9, 5), (64, 33)):
        image = Image.new(mode, (width, height))

        assert decoded(encode(image, "PNG")).shape == (height, width, 3)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 9])
def test_a_black_interlaced_png_of_any_size_needs_each_of_its_bytes(
    width: int, height: int
) -> None:
    rows = interlaced_rows(black(width, height))

    assert not decoded(interlaced(rows, (width, height))).any()
    with pytest.raises(UndecodableImage):
        decoded(interlaced(rows[:-1], (width, height)))


def test_a_black_png_in_many_pieces_is_counted_whole() -> None:
    compressed = zlib.compress(png_rows(black(700, 300)), 0)
    pieces = [compressed[at : at + 1_000] for at in range(0, len(compressed), 1_000)]
    start = png((700, 300), 8, 2)[:33]
    chunks = b"".join(
        struct.pack(">I", len(piece))
        + b"IDAT"
        + piece
        + struct.pack(">I", zlib.crc32(b"IDAT" + piece))
        for piece in [b"", *pieces]
    )

    assert not decoded(start + chunks).any()


def test_what_follows_the_rows_of_a_png_is_not_inflated() -> None:
    data = png((4, 4), 8, 2, png_rows(black(4, 4)) + bytes(30 << 20))
    image = Image.new("RGB", (4, 4))

    tracemalloc.start()
    try:
        check_rows(image, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 1 << 20


EXIF_TEXTS = {
    "tEXt": (b"tEXt", b"Raw profile type exif\0"),
    "zTXt": (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"")),
    "iTXt": (b"iTXt", b"Raw profile type exif\0\0\0\0\0"),
    "text called exif": (b"tEXt", b"exif\0II*\0"),
    "international text called exif": (b"iTXt", b"exif\0\0\0\0\0II*"),
    "text called xmp": (b"tEXt", b'xmp\0tiff:Orientation="6"'),
    "eXIf": (b"eXIf", b"II*\0\x08\0\0\0\0\0\0\0\0\0"),
    "XMP": (b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0tiff:Orientation="6"'),
}


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("text", EXIF_TEXTS.values(), ids=list(EXIF_TEXTS))
def test_no_metadata_of_a_png_hides_the_damage_of_its_pixels(
    text: tuple[bytes, bytes], where: str
) -> None:
    rows = png_rows(np.asarray(PICTURE))
    extra, late = ([text], []) if where == "before" else ([], [text])
    whole = png((WIDTH, HEIGHT), 8, 2, rows, extra, late)
    at = whole.index(b"IDAT") + 200
    damaged = whole[:at] + bytes(8) + whole[at + 8 :]

    decoded(whole)
    for data in (damaged, whole[:at]):
        with pytest.raises(UndecodableImage):
            decoded(data)


def raw_tiff(strips: int, planes: int = 1) -> bytes:
    """Return a TIFF of 4 × 6 pixels, uncompressed in strips of two rows, that lists `strips`."""
    start = 400
    tags = {256: (3, [4]), 257: (3, [6]), 258: (3, [8, 8, 8]), 259: (3, [1]), 262: (3, [2])}
    tags |= {277: (3, [3]), 278: (3, [2]), 284: (3, [1 if planes == 1 else 2])}
    size = 24 // planes
    tags |= {273: (4, [start + size * at for at in range(strips)]), 279: (4, [size] * strips)}
    return tiff(tags).ljust(start, b"\0") + bytes(range(1, 73))


@pytest.mark.parametrize(("planes", "whole"), [(1, 3), (3, 9)])
def test_a_tiff_that_lists_too_few_strips_is_truncated(planes: int, whole: int) -> None:
    assert decoded(raw_tiff(whole, planes)).all()
    for strips in range(2, whole):
        with pytest.raises(UndecodableImage, match="strips or tiles are missing"):
            decoded(raw_tiff(strips, planes))


def cut_everywhere(data: bytes) -> Iterator[bytes]:
    yield from (data[:at] for at in range(len(data) // 3, len(data) * 9 // 10, 97))


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "BMP", "GIF"])
def test_a_file_cut_among_its_pixels_is_never_decoded_in_part(format: str) -> None:
    image = noise(64, 48)
    data = encode(image.quantize(64) if format == "GIF" else image, format)

    for piece in cut_everywhere(data):
        with pytest.raises(UndecodableImage):
            decoded(piece)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate"])
def test_a_compressed_tiff_whose_strip_is_overwritten_is_undecodable(compression: str) -> None:
    data = bytearray(encode(noise(64, 48), "TIFF", compression=compression))
    data[40:2_000] = bytes(1_960)

    with pytest.raises(UndecodableImage):
        decoded(bytes(data))
