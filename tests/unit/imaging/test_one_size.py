"""A file has a single size: no second one can bypass the header check."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.unit.imaging.pictures import decoded, encode, noise, png, png_rows, riff, tiff
from tidegate.service.errors import RequestError, UndecodableImage, UnsupportedImageType
from tidegate.service.imaging.geometry import Size
from tidegate.service.imaging.header import inspect

SMALL, LARGE = (4, 4), (40, 30)


def any_size(size: Size) -> None:
    """Accept every size."""


def png_header(size: Size, depth: int = 8, colour: int = 2, interlaced: int = 0) -> bytes:
    return struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)


def png_of_two(second: bytes, chunks_between: int = 0, late: bool = False) -> bytes:
    rows = png_rows(np.zeros((30, 40, 3), np.uint8))
    more = [(b"teSt", b"")] * chunks_between + [(b"IHDR", second)]
    return png(SMALL, 8, 2, rows, **{"late" if late else "extra": more})


@pytest.mark.parametrize(
    "second",
    [png_header(LARGE), png_header(LARGE, 16, 6, 1), png_header(SMALL), png_header(SMALL, 1, 0)],
    ids=["larger", "dearer", "the same", "other pixels"],
)
@pytest.mark.parametrize("late", [False, True], ids=["before the pixels", "after them"])
def test_a_png_with_two_headers_is_undecodable(second: bytes, late: bool) -> None:
    data = png_of_two(second, late=late)

    for read in (lambda: inspect(data, any_size), lambda: decoded(data)):
        with pytest.raises(UndecodableImage, match="more than 1 header"):
            read()


def test_a_second_png_header_after_many_chunks_is_detected() -> None:
    with pytest.raises(UndecodableImage, match="more than 1 header"):
        decoded(png_of_two(png_header(LARGE), chunks_between=4_000))


def test_what_follows_the_end_of_a_png_is_not_its_header() -> None:
    data = encode(noise(*SMALL), "PNG")

    assert decoded(data + data[8:]).shape == (4, 4, 3)


@pytest.mark.parametrize("chunks", [0, 3, 500, 2_500])
def test_a_transparent_colour_counts_as_work_at_any_position(chunks: int) -> None:
    many = [(b"teSt", bytes(20))] * chunks

    plain = inspect(png((5_000, 5_000), 8, 2, extra=[]), any_size).work
    keyed = inspect(png((5_000, 5_000), 8, 2, extra=[*many, (b"tRNS", bytes(6))]), any_size).work

    assert keyed.seconds - plain.seconds > 0.2


def jpeg_frame(marker: int, width: int, height: int, components: int = 3) -> bytes:
    body = struct.pack(">BHHB", 8, height, width, components) + b"\1\x11\0" * components
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


FRAMES = [0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC9, 0xCA, 0xDE]


@pytest.mark.parametrize("marker", FRAMES)
@pytest.mark.parametrize("first", [False, True])
def test_a_jpeg_with_two_frame_headers_is_rejected_as_by_pillow(marker: int, first: bool) -> None:
    data = encode(noise(*SMALL), "JPEG")
    at = data.index(b"\xff\xc0") if first else data.index(b"\xff\xda")
    two = data[:at] + jpeg_frame(marker, *LARGE) + data[at:]

    with pytest.raises((UndecodableImage, UnsupportedImageType)):
        inspect(two, any_size)
    with pytest.raises(OSError), Image.open(io.BytesIO(two)) as image:  # noqa: PT011
        image.load()


@pytest.mark.parametrize("canvas", [LARGE, (3, 3), (4, 5), (1 << 12, 1 << 12)])
@pytest.mark.parametrize("lossless", [False, True])
def test_a_still_webp_is_as_large_as_its_canvas(canvas: Size, lossless: bool) -> None:
    still = encode(noise(*SMALL), "WEBP", lossless=lossless)[12:]
    chunk = still[:4], still[8 : 8 + int.from_bytes(still[4:8], "little")]

    def file(width: int, height: int) -> bytes:
        sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        return riff((b"VP8X", bytes(4) + sides), chunk)

    assert decoded(file(*SMALL)).shape == (4, 4, 3)
    with pytest.raises(UndecodableImage):
        decoded(file(*canvas))


@pytest.mark.parametrize("second", [(b"VP8X", bytes(4) + b"\x27\0\0\x1d\0\0"), None])
def test_a_webp_with_a_second_size_has_its_first_size_or_is_rejected(
    second: tuple[bytes, bytes] | None,
) -> None:
    def chunk(size: Size) -> tuple[bytes, bytes]:
        still = encode(noise(*size), "WEBP")[12:]
        return still[:4], still[8 : 8 + int.from_bytes(still[4:8], "little")]

    sides = bytes(4) + b"\3\0\0\3\0\0"
    data = riff((b"VP8X", sides), second or chunk(LARGE), chunk(SMALL))

    with pytest.raises(UndecodableImage):
        decoded(data)


def test_of_a_tiff_the_first_directory_counts() -> None:
    pages = [noise(*SMALL), noise(*LARGE)]
    data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])

    assert inspect(data, any_size).size == SMALL
    assert decoded(data).shape == (4, 4, 3)


def samples() -> list[bytes]:
    """Return a small file of each kind of header."""
    picture = noise(12, 9)
    webps = [encode(picture, "WEBP", lossless=lossless) for lossless in (True, False)]
    bmps = [encode(picture.convert(mode), "BMP") for mode in ("RGB", "P", "1")]
    tiffs = [encode(picture, "TIFF"), encode(picture, "TIFF", compression="tiff_lzw")]
    gifs = [encode(picture.convert("P"), "GIF"), encode(picture.convert("L"), "GIF")]
    others = [encode(picture, "JPEG"), encode(picture, "JPEG", progressive=True)]
    return [*webps, *bmps, *tiffs, *gifs, *others, encode(picture, "PNG"), tiff_of_tiles()]


def tiff_of_tiles() -> bytes:
    tags = {256: (3, [12]), 257: (3, [9]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1])}
    return tiff(
        tags | {322: (3, [16]), 323: (3, [16]), 324: (4, [300]), 325: (4, [256])}, b"\7" * 600
    )


SAMPLES = samples()
changes = st.lists(
    st.tuples(st.integers(2, 150), st.sampled_from([0, 1, 2, 8, 64, 255])), max_size=4
)


@pytest.mark.lengthy
@given(
    data=st.sampled_from(SAMPLES),
    changes=changes,
    twice=st.tuples(st.integers(2, 150), st.integers(0, 40)),
)
@example(data=tiff_of_tiles(), changes=[(90, 0)], twice=(2, 0))  # tiles without a height
@settings(deadline=None, max_examples=1_500)
def test_pillow_opens_no_more_pixels_than_the_header_check_sees(
    data: bytes, changes: list[tuple[int, int]], twice: tuple[int, int]
) -> None:
    changed = bytearray(data)
    for at, value in changes:
        changed[at % len(changed)] = value
    start, length = twice
    data = bytes(
        changed[: start + length] + changed[start : start + length] + changed[start + length :]
    )
    seen: list[Size] = []
    try:
        inspect(data, seen.append)
    except RequestError:
        return

    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
    except Exception:  # noqa: BLE001 - the plugins raise anything
        return

    assert width * height <= max(width * height for width, height in seen)
