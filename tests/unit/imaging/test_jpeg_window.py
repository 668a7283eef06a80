"""Decoding a part of a JPEG gives the pixels that the whole image has there."""

from __future__ import annotations

import base64
import ctypes.util
import io
import re

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.unit.imaging.pictures import (
    crop_fraction_then_resize,
    noise,
    resize,
    resize_then_crop,
    spec,
)
from tests.unit.imaging.test_pillow_resize import boxes, scales
from tidegate.service.errors import UndecodableImage
from tidegate.service.imaging import jpeg_window, pillow_resize
from tidegate.service.imaging.decode import decode_source
from tidegate.service.imaging.geometry import Scale, Size
from tidegate.service.imaging.jpeg import DAMAGE, decode_straight
from tidegate.service.imaging.jpeg_window import decode_window
from tidegate.service.imaging.preprocess import apply, preprocess
from tidegate.service.imaging.spec import PreprocessSpec

_jpeg = pytest.importorskip("tidegate.service.imaging._jpeg", reason="built without a C compiler")
pytestmark = pytest.mark.skipif(
    not jpeg_window.AVAILABLE, reason="built without the headers of libjpeg-turbo"
)
sides = st.one_of(st.integers(1, 40), st.integers(1, 300))
sizes = st.tuples(sides, sides)
SOS = b"\xff\xda"
MAX_PIXELS = 100_000_000


def blurred(size: Size, seed: int) -> Image.Image:
    """Return colours that change slowly with some noise, so that blocks differ and matter."""
    small = noise(max(1, size[0] // 6), max(1, size[1] // 6), seed)
    return small.resize(size, Image.Resampling.BICUBIC)


@st.composite
def jpegs(draw: st.DrawFn) -> tuple[bytes, Size]:
    """Draw a JPEG of any size, sampling and kind; some of the progressive ones lack scans."""
    size = draw(sizes)
    image = blurred(size, draw(st.integers(0, 99)))
    quality = draw(st.sampled_from([5, 50, 88, 100]))
    sampling = draw(st.sampled_from(["444", "422", "420", "440", "411"]))
    if sampling in ("440", "411") or draw(st.booleans()):
        pixels = np.ascontiguousarray(image)
        return simplejpeg.encode_jpeg(pixels, quality, "RGB", colorsubsampling=sampling), size
    kept = io.BytesIO()
    image.save(
        kept,
        "JPEG",
        quality=quality,
        subsampling=["444", "422", "420"].index(sampling),
        progressive=draw(st.booleans()),
        optimize=draw(st.booleans()),
        restart_marker_blocks=draw(st.sampled_from([0, 1, 7])),
    )
    data = kept.getvalue()
    scans = data.count(SOS)
    wanted = draw(st.integers(1, scans))
    return (data if wanted == scans else first_scans(data, wanted)), size


def first_scans(data: bytes, count: int) -> bytes:
    """Return a JPEG with only its first scans, which libjpeg smooths."""
    at = -1
    for _ in range(count + 1):
        at = data.index(SOS, at + 1)
    return data[: data.rindex(b"\xff\xc4", 0, at) if b"\xff\xc4" in data[:at] else at] + b"\xff\xd9"


# 49 × 1 pixels, one scan of a progressive JPEG, chroma halved. The last column takes half of its
# chroma from a sample of the block before, which is smoothed with the two blocks before that.
SMOOTHED = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAKBueIx4ZKCMgoy0qqC+8P//8Nzc8P//////////////////////////"
    "////////////////////////////////2wBDAaq0tPDS8P//////////////////////////////////////////"
    "////////////////////////////////////wgARCAABADEDASEAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAA"
    "AAH/xAAWAQEBAQAAAAAAAAAAAAAAAAABAAL/2gAMAwEAAhADEAAAAVgyyagP/9k="
)


def test_the_neighbour_of_the_first_column_is_smoothed_as_in_the_whole() -> None:
    whole = decode_straight(SMOOTHED, "RGB", (49, 1))
    part, warning = decode_window(SMOOTHED, (49, 1), (48, 0, 49, 1))

    assert whole is not None
    assert warning == ""
    assert part[0, 48].tolist() == whole[0, 48].tolist()


@pytest.mark.lengthy
@given(drawn=jpegs(), data=st.data())
@settings(deadline=None, max_examples=150)
def test_any_part_of_any_jpeg_has_the_pixels_of_the_whole(
    drawn: tuple[bytes, Size], data: st.DataObject
) -> None:
    jpeg, size = drawn
    left, upper, right, lower = window = data.draw(boxes(size))

    pixels, warning = decode_window(jpeg, size, window)

    whole, expected = decode_whole(jpeg, size)
    assert warning == expected
    if not warning:
        assert np.array_equal(pixels[upper:lower, left:right], whole[upper:lower, left:right])


@pytest.mark.lengthy
@given(drawn=jpegs(), data=st.data())
@settings(deadline=None, max_examples=150)
def test_damage_anywhere_is_reported_as_for_the_whole(
    drawn: tuple[bytes, Size], data: st.DataObject
) -> None:
    jpeg, size = drawn
    damaged = bytearray(jpeg)
    first = jpeg.index(SOS)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(first, len(jpeg) - 1))] = data.draw(st.integers(0, 255))
    left, upper, right, lower = window = data.draw(boxes(size))

    pixels, warning = decode_window(bytes(damaged), size, window)

    whole, expected = decode_whole(bytes(damaged), size)
    assert kind_of(warning) == kind_of(expected), (warning, expected)
    if not warning:
        assert np.array_equal(pixels[upper:lower, left:right], whole[upper:lower, left:right])


def kind_of(message: str) -> str:
    """Return what `decode_straight` makes of it: the words of errors are each library's own."""
    if DAMAGE.search(message):
        return "damage"
    return "another" if message else ""


def decode_whole(jpeg: bytes, size: Size) -> tuple[NDArray[np.uint8], str]:
    pixels = np.empty((size[1], size[0], 4), np.uint8)
    try:
        return simplejpeg.decode_jpeg(jpeg, "RGBA", strict=True, buffer=pixels), ""
    except ValueError as error:
        return pixels, str(error)


@pytest.mark.lengthy
@given(size=sizes, data=st.data())
@settings(deadline=None, max_examples=100)
def test_a_resize_reads_nothing_outside_the_part_that_it_names(
    size: Size, data: st.DataObject
) -> None:
    to: Scale = data.draw(scales(size))
    read = pillow_resize.reads(to, size)
    whole = np.dstack([np.asarray(noise(*size)), np.full(size[::-1], 255, np.uint8)])
    spoiled = whole.copy()
    if read is not None:
        spoiled[:] = 77
        left, upper, right, lower = read
        spoiled[upper:lower, left:right] = whole[upper:lower, left:right]

    assert np.array_equal(pillow_resize.resize(spoiled, to), pillow_resize.resize(whole, to))


SPECS = [
    crop_fraction_then_resize(64),
    resize_then_crop(73, (64, 64)),
    resize_then_crop(40, (64, 64)),  # padded with black
    spec(resize(64, 64, "box")),
    spec(
        {"op": "centre-crop", "height": 50, "width": 70, "offset": "floor"},
        resize(32, 32, "lanczos"),
    ),
    spec(resize(64, 64, "bilinear") | {"backend": "torch"}),
]


@pytest.mark.lengthy
@given(drawn=jpegs(), rules=st.sampled_from(SPECS))
@settings(deadline=None, max_examples=150)
def test_preprocessing_a_part_gives_the_pixels_of_preprocessing_the_whole(
    drawn: tuple[bytes, Size], rules: PreprocessSpec
) -> None:
    jpeg, _ = drawn
    try:
        whole = decode_source(jpeg, rules, lambda size: None)
    except UndecodableImage as error:
        with pytest.raises(UndecodableImage, match=re.escape(str(error))):
            preprocess(jpeg, rules, MAX_PIXELS)
        return

    assert np.array_equal(preprocess(jpeg, rules, MAX_PIXELS), apply(whole, rules))


@pytest.mark.parametrize("lost", [2, 200, 2000])
def test_a_cut_below_the_part_is_noticed(lost: int) -> None:
    size = 200, 400
    kept = io.BytesIO()
    noise(*size).save(kept, "JPEG", quality=90)

    with pytest.raises(UndecodableImage, match="truncated or corrupt"):
        decode_straight(kept.getvalue()[:-lost], "RGB", size, (80, 10, 120, 20))


def test_a_part_outside_the_image_is_an_error() -> None:
    kept = io.BytesIO()
    noise(20, 10).save(kept, "JPEG")

    for window in ((0, 0, 21, 10), (5, 5, 5, 6), (0, 9, 1, 11)):
        with pytest.raises(ValueError, match="outside the image"):
            decode_window(kept.getvalue(), (20, 10), window)


def test_another_size_than_the_files_is_reported() -> None:
    kept = io.BytesIO()
    noise(20, 10).save(kept, "JPEG")

    assert decode_window(kept.getvalue(), (10, 20), (0, 0, 1, 1))[1] == "another size"


def test_bytes_that_are_no_jpeg_give_libjpegs_error() -> None:
    assert "Not a JPEG file" in decode_window(b"GIF89a" * 9, (10, 20), (0, 0, 1, 1))[1]


def test_another_library_is_refused() -> None:
    with pytest.raises(ImportError, match="has no jpeg_std_error"):
        _jpeg.open(ctypes.util.find_library("m") or "libm.so.6")
    assert jpeg_window.AVAILABLE
    test_another_size_than_the_files_is_reported()  # the one that was opened is still used
