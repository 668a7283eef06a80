"""A JPEG decoded straight by libjpeg-turbo gives Pillow's pixels, or is left to Pillow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from service.errors import RequestError
from service.imaging import decode, jpeg
from service.imaging.geometry import Size
from tests.unit.imaging.pictures import decoded, encode, noise, preprocessed, resize_then_crop

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
    """Return what Pillow alone makes of a file; nothing when it refuses it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "decode_rgba", lambda data, size: None)
        return outcome(data)


def outcome(data: bytes) -> NDArray[np.uint8]:
    try:
        return decoded(data)
    except RequestError:
        return np.empty(0, np.uint8)


@given(size=st.tuples(sides, sides), saved=options, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=150)
def test_the_pixels_are_pillows(size: Size, saved: dict[str, Any], seed: int) -> None:
    data = encode(noise(*size, seed), "JPEG", **saved)

    straight = jpeg.decode_rgba(data, size)

    assert straight is not None
    assert (straight[..., 3] == 255).all()
    assert np.array_equal(straight[..., :3], by_pillow(data))
    assert np.array_equal(np.asarray(jpeg.as_image(straight)), by_pillow(data))


@given(data=st.data(), saved=options)
@settings(deadline=None, max_examples=300)
def test_damage_has_the_outcome_that_it_has_with_pillow(
    data: st.DataObject, saved: dict[str, Any]
) -> None:
    whole = encode(noise(40, 30), "JPEG", **saved)
    start = data.draw(st.integers(2, len(whole) - 1))
    stop = data.draw(st.integers(start, min(len(whole), start + 8)))
    damaged = whole[:start] + data.draw(st.binary(max_size=8)) + whole[stop:]

    assert np.array_equal(outcome(damaged), by_pillow(damaged))


@pytest.mark.parametrize("size", [(39, 30), (41, 30), (30, 40), (80, 60), (1, 1)])
def test_a_file_of_another_size_than_its_header_told_is_left_to_pillow(size: Size) -> None:
    assert jpeg.decode_rgba(encode(noise(40, 30), "JPEG"), size) is None


def test_a_truncated_file_is_left_to_pillow() -> None:
    data = encode(noise(40, 30), "JPEG")

    assert jpeg.decode_rgba(data[:-200], (40, 30)) is None


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_modes_are_pillows(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(noise(40, 30).convert(mode), "JPEG")
    expected = by_pillow(data)
    monkeypatch.setattr(decode, "decode_rgba", lambda *_: pytest.fail("decoded straight"))

    assert np.array_equal(decoded(data), expected)


def test_photographs_are_preprocessed_from_those_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    data, rules = encode(noise(500, 375), "JPEG"), resize_then_crop(256, (224, 224))
    seen: list[Size] = []

    def spy(data: bytes, size: Size) -> jpeg.Rgba | None:
        seen.append(size)
        return jpeg.decode_rgba(data, size)

    monkeypatch.setattr(decode, "decode_rgba", spy)
    straight = preprocessed(data, rules)
    monkeypatch.setattr(decode, "decode_rgba", lambda data, size: None)

    assert seen == [(500, 375)]
    assert np.array_equal(straight, preprocessed(data, rules))


def test_images_and_pixels_tell_their_size() -> None:
    assert jpeg.size_of(Image.new("RGB", (4, 3))) == (4, 3)
    assert jpeg.size_of(np.zeros((3, 4, 4), np.uint8)) == (4, 3)
