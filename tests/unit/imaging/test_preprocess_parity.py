"""Both spec families are bit-identical to the source libraries, reimplemented here."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tests.unit.imaging.pictures import (
    crop_fraction_then_resize,
    encode,
    noise,
    preprocessed,
    resize,
    resize_then_crop,
    spec,
)
from tidegate.service.errors import ImageTooLarge
from tidegate.service.imaging.geometry import Cut, Scale, plan
from tidegate.service.imaging.preprocess import apply
from tidegate.service.imaging.spec import PreprocessSpec

Pixels = NDArray[np.uint8]
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
sides = st.integers(1, 300)


def like_tensorflow(image: Image.Image, size: int) -> Pixels:
    """EfficientNet's `decode_and_center_crop` (image_size 224, CROP_PADDING 32), then bicubic."""
    width, height = image.size
    side = int(224 / (224 + 32) * min(width, height)) or 1
    top = (height - side + 1) // 2
    left = (width - side + 1) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))


def like_torchvision(image: Image.Image, size: int, crop: tuple[int, int]) -> Pixels:
    """`Resize(size)` and `CenterCrop(crop)` on PIL images (torchvision.transforms.functional)."""
    width, height = image.size
    short, long = sorted((width, height))
    new_short, new_long = size, int(size * long / short)
    new_size = (new_short, new_long) if width <= height else (new_long, new_short)
    image = image.resize(new_size, Image.Resampling.BILINEAR)
    crop_width, crop_height = crop
    width, height = image.size
    if crop_width > width or crop_height > height:
        padding = (
            (crop_width - width) // 2 if crop_width > width else 0,
            (crop_height - height) // 2 if crop_height > height else 0,
            (crop_width - width + 1) // 2 if crop_width > width else 0,
            (crop_height - height + 1) // 2 if crop_height > height else 0,
        )
        image = ImageOps.expand(image, padding, 0)
        width, height = image.size
    top = int(round((height - crop_height) / 2.0))  # noqa: RUF046 - as written there
    left = int(round((width - crop_width) / 2.0))  # noqa: RUF046 - as written there
    return np.asarray(image.crop((left, top, left + crop_width, top + crop_height)))


@settings(max_examples=120, deadline=None)
@given(sides, sides, st.sampled_from([15, 16, 32]))
@example(1, 1, 224)
@example(500, 375, 224)
@example(375, 500, 224)
@example(1, 40_000, 16)
@example(40_000, 1, 16)
def test_crop_fraction_and_resize_equal_tensorflow_s(width: int, height: int, size: int) -> None:
    image = noise(width, height)

    expected = like_tensorflow(image, size)

    assert np.array_equal(apply(image, crop_fraction_then_resize(size)), expected)


@pytest.mark.lengthy
@settings(max_examples=120, deadline=None)
@given(sides, sides, st.integers(8, 33), st.integers(1, 48), st.integers(1, 48))
@example(500, 375, 256, 224, 224)
@example(333, 500, 256, 224, 224)
@example(1, 1, 32, 24, 24)
@example(256, 256, 256, 224, 224)
@example(1, 4_000, 16, 16, 16)
@example(4_000, 1, 16, 15, 40)
def test_resize_and_centre_crop_equal_torchvision_s(
    width: int, height: int, size: int, crop_width: int, crop_height: int
) -> None:
    image = noise(width, height)
    crop = (crop_width, crop_height)

    expected = like_torchvision(image, size, crop)

    assert np.array_equal(apply(image, resize_then_crop(size, crop)), expected)


@pytest.mark.parametrize("name", FILTERS)
def test_each_filter_is_pillow_s_own(name: str) -> None:
    image = noise(61, 47)

    expected = np.asarray(image.resize((20, 30), FILTERS[name]))

    assert np.array_equal(apply(image, spec(resize(30, 20, name))), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 40_000), (40_000, 1)])
def test_a_sliver_is_preprocessed_when_its_crop_is_small(size: tuple[int, int]) -> None:
    pixels = preprocessed(encode(noise(*size), "PNG"), crop_fraction_then_resize(224))

    assert pixels.shape == (224, 224, 3)
    assert (pixels == pixels[0, 0]).all()  # one pixel, enlarged


@pytest.mark.parametrize("size", [(1, 40_000), (40_000, 1)])
def test_a_very_narrow_image_is_rejected_if_its_resize_would_be_huge(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooLarge, match="too narrow"):
        preprocessed(encode(noise(*size), "PNG"), resize_then_crop(256, (224, 224)))


def test_one_pixel_can_be_resized_and_cropped() -> None:
    pixels = preprocessed(encode(noise(1, 1), "PNG"), resize_then_crop(256, (224, 224)))

    assert (pixels == pixels[0, 0]).all()


@pytest.mark.parametrize(
    ("offset", "excess", "left"),
    [
        ("floor", 5, 2),
        ("ceil", 5, 3),
        ("half-even", 5, 2),
        ("half-even", 7, 4),
        ("floor", 4, 2),
        ("ceil", 4, 2),
        ("half-even", 4, 2),
        ("floor", -5, -2),
        ("ceil", -5, -2),
        ("half-even", -5, -2),
        ("half-even", -7, -3),
    ],
)
def test_half_a_pixel_is_rounded_by_the_offset_rule(offset: str, excess: int, left: int) -> None:
    cut = {"op": "centre-crop", "height": 10, "width": 10, "offset": offset}

    (operation,) = plan(spec(cut), (10 + excess, 10))

    assert operation == Cut((left, 0, left + 10, 10))


@pytest.mark.parametrize(("rounding", "long"), [("truncate", 342), ("round", 343)])
def test_the_longer_side_is_rounded_by_its_rule(rounding: str, long: int) -> None:
    edge = {"op": "resize-shortest-edge", "size": 256, "rounding": rounding, "filter": "box"}

    assert plan(spec(edge, resize(8, 8)), (375, 502))[0] == Scale((256, long), "box")
    assert plan(spec(edge, resize(8, 8)), (502, 375))[0] == Scale((long, 256), "box")


@settings(max_examples=60, deadline=None)
@given(sides, sides)
def test_the_result_is_a_tight_array_of_the_promised_shape(width: int, height: int) -> None:
    rules: tuple[PreprocessSpec, ...] = (
        crop_fraction_then_resize(16),
        resize_then_crop(16, (12, 14)),
        spec(resize(5, 7), channel_order="bgr"),
    )
    for rule in rules:
        pixels = apply(noise(width, height), rule)

        assert pixels.shape == (*rule.output_size, 3)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous


def test_steps_that_change_nothing_cost_nothing() -> None:
    assert plan(spec(resize(8, 9)), (9, 8)) == ()
