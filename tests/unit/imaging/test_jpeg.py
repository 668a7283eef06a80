"""A JPEG decoded directly by libjpeg-turbo has Pillow's pixels, and no missing ones."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.unit.imaging.pictures import decoded, encode, noise, preprocessed, resize_then_crop
from tidegate.service.errors import RequestError
from tidegate.service.imaging import decode, jpeg
from tidegate.service.imaging.geometry import Size

sides = st.integers(1, 70)
options = st.fixed_dictionaries(
    {
        "quality": st.sampled_from([1, 30, 75, 95, 100]),
        "subsampling": st.sampled_from([0, 1, 2]),
        "progressive": st.booleans(),
        "restart_marker_blocks": st.sampled_from([0, 1, 3]),
    }
)


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    """Return a file decoded by Pillow only; None if it raises."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "decode_straight", lambda *_, **__: None)
        patch.setattr(decode, "load_by_pillow", lambda image, *_, **__: image.load())
        return outcome(data)


def outcome(data: bytes) -> NDArray[np.uint8]:
    try:
        return decoded(data)
    except RequestError:
        return np.empty(0, np.uint8)


@pytest.mark.lengthy
@given(size=st.tuples(sides, sides), saved=options, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=150)
def test_the_pixels_are_pillows(size: Size, saved: dict[str, Any], seed: int) -> None:
    data = encode(noise(*size, seed), "JPEG", **saved)

    straight = jpeg.decode_straight(data, "RGB", size)

    assert straight is not None
    assert (straight[..., 3] == 255).all()
    assert np.array_equal(straight[..., :3], by_pillow(data))
    assert np.array_equal(np.asarray(jpeg.as_image(straight)), by_pillow(data))


@pytest.mark.lengthy
@given(size=st.tuples(sides, sides), mode=st.sampled_from(["L", "CMYK"]), saved=options)
@settings(deadline=None, max_examples=150)
def test_the_pixels_of_other_modes_are_pillows(
    size: Size, mode: str, saved: dict[str, Any]
) -> None:
    data = encode(noise(*size).convert(mode), "JPEG", **saved)

    straight = jpeg.decode_straight(data, mode, size)

    assert np.array_equal(decoded(data), by_pillow(data))
    if straight is None:
        assert mode == "CMYK"
        assert saved["subsampling"] != 0  # libjpeg-turbo's API supports the other samplings
        return
    with Image.open(io.BytesIO(data)) as image:
        assert jpeg.image_of(straight, mode).tobytes() == image.tobytes()


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_oriented_image_has_pillows_pixels(mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(noise(40, 30).convert(mode), "JPEG", exif=exif)

    assert np.array_equal(decoded(data), by_pillow(data))


def test_four_components_of_which_three_are_colours_have_pillows_pixels() -> None:
    data = encode(noise(40, 30).convert("CMYK"), "JPEG")
    adobe = data.index(b"Adobe")
    ycck = data[: adobe + 11] + b"\2" + data[adobe + 12 :]

    assert np.array_equal(decoded(ycck), by_pillow(ycck))
    assert not np.array_equal(decoded(ycck), decoded(data))


@pytest.mark.lengthy
@given(data=st.data(), saved=options, mode=st.sampled_from(["L", "RGB", "CMYK"]))
@settings(deadline=None, max_examples=300)
def test_a_damaged_file_is_rejected_or_has_pillow_s_pixels(
    data: st.DataObject, saved: dict[str, Any], mode: str
) -> None:
    whole = encode(noise(40, 30).convert(mode), "JPEG", **saved)
    start = data.draw(st.integers(2, len(whole) - 1))
    stop = data.draw(st.integers(start, min(len(whole), start + 8)))
    damaged = whole[:start] + data.draw(st.binary(max_size=8)) + whole[stop:]

    made = outcome(damaged)

    assert not made.size or np.array_equal(made, by_pillow(damaged))


@pytest.mark.parametrize("size", [(39, 30), (41, 30), (30, 40), (80, 60), (1, 1)])
def test_a_file_of_another_size_than_its_header_is_left_to_pillow(size: Size) -> None:
    assert jpeg.decode_straight(encode(noise(40, 30), "JPEG"), "RGB", size) is None


def test_photographs_are_preprocessed_from_those_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    data, rules = encode(noise(500, 375), "JPEG"), resize_then_crop(256, (224, 224))
    monkeypatch.setattr(decode, "load_by_pillow", lambda *_, **__: pytest.fail("not straight"))
    straight = preprocessed(data, rules)
    monkeypatch.undo()
    monkeypatch.setattr(decode, "decode_straight", lambda *_, **__: None)

    assert np.array_equal(straight, preprocessed(data, rules))


def test_images_and_pixels_have_a_size() -> None:
    assert jpeg.size_of(Image.new("RGB", (4, 3))) == (4, 3)
    assert jpeg.size_of(np.zeros((3, 4, 4), np.uint8)) == (4, 3)
