"""Backend cv2 equals OpenCV's resize and luminance, without OpenCV.

The digests are from opencv-python-headless 4.14.0 and 5.0.0, which agree, for `noise(width,
height)`: `cv2.resize(x, (width, height), interpolation=…)`, sha256 of its bytes. The comparison
with an installed OpenCV is tests/unit/models/parity/test_opencv.py.
"""

from __future__ import annotations

import hashlib
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from tests.unit.imaging.pictures import noise, spec
from tidegate.service.imaging.cv2_resize import resize
from tidegate.service.imaging.geometry import Size
from tidegate.service.imaging.grey import replicated
from tidegate.service.imaging.preprocess import apply
from tidegate.service.imaging.spec import Filter

DIGESTS: tuple[tuple[Size, Size, Filter, str], ...] = (
    ((500, 375), (341, 256), "nearest", "bc924b92d2b5ea9d"),
    ((61, 47), (224, 224), "nearest", "c2e387bdf9abdd08"),
    ((333, 1001), (97, 33), "nearest", "ad25675975cd79ae"),
    ((100, 80), (50, 40), "nearest", "c6ad7128cf781d00"),
    ((120, 90), (40, 30), "nearest", "96ae5822aef2ccc8"),
    ((90, 20), (45, 60), "nearest", "2b25e7ea219e4538"),
    ((1, 9), (7, 31), "nearest", "ded80e488257e7a6"),
    ((640, 12), (3, 12), "nearest", "8c151830cf245391"),
    ((20000, 2), (100, 2), "nearest", "73f90ba83a8ca422"),
    ((500, 375), (341, 256), "bilinear", "da908df8b6ee659c"),
    ((61, 47), (224, 224), "bilinear", "134944f0d86b4b79"),
    ((333, 1001), (97, 33), "bilinear", "09f10fd0c7f205cb"),
    ((100, 80), (50, 40), "bilinear", "580a81e766ff67cd"),
    ((120, 90), (40, 30), "bilinear", "9fa8380785074cbf"),
    ((90, 20), (45, 60), "bilinear", "b637162bb91779e3"),
    ((1, 9), (7, 31), "bilinear", "77ad455f1096409f"),
    ((640, 12), (3, 12), "bilinear", "b48d3c28d0a2686d"),
    ((20000, 2), (100, 2), "bilinear", "df73d07116c05b7a"),
    ((500, 375), (341, 256), "area", "073b67e7da385a29"),
    ((61, 47), (224, 224), "area", "f5ea1577c80c4e10"),
    ((333, 1001), (97, 33), "area", "55888fc7fc35fa17"),
    ((100, 80), (50, 40), "area", "580a81e766ff67cd"),
    ((120, 90), (40, 30), "area", "aa379b496622f239"),
    ((90, 20), (45, 60), "area", "0b40f4a05a4da190"),
    ((1, 9), (7, 31), "area", "2d1b27a97418c551"),
    ((640, 12), (3, 12), "area", "2f03dd34897e50f5"),
    ((20000, 2), (100, 2), "area", "09ee0f93724457da"),
)
sides = st.integers(1, 70)
filters = st.sampled_from(("nearest", "bilinear", "area"))


@pytest.mark.parametrize(("before", "after", "filter", "digest"), DIGESTS)
def test_the_pixels_are_opencv_s_own(
    before: Size, after: Size, filter: Filter, digest: str
) -> None:
    result = resize(np.asarray(noise(*before)), after, filter, (0, 0, *after))

    assert hashlib.sha256(result.tobytes()).hexdigest()[:16] == digest


@settings(max_examples=60)
@given(sides, sides, sides, sides, filters, st.data())
def test_a_window_is_a_part_of_the_whole(
    width: int, height: int, new_width: int, new_height: int, filter: Filter, data: st.DataObject
) -> None:
    pixels = np.asarray(noise(width, height))
    left, upper = (data.draw(st.integers(0, side - 1)) for side in (new_width, new_height))
    right = data.draw(st.integers(left + 1, new_width))
    lower = data.draw(st.integers(upper + 1, new_height))

    whole = resize(pixels, (new_width, new_height), filter, (0, 0, new_width, new_height))
    part = resize(pixels, (new_width, new_height), filter, (left, upper, right, lower))

    assert np.array_equal(part, whole[upper:lower, left:right])


@pytest.mark.parametrize("before", [(40_000, 3), (3, 40_000)])
@pytest.mark.parametrize("after", [(1, 1), (2, 3)])
def test_many_source_pixels_of_one_output_are_added_without_a_loop(
    before: Size, after: Size
) -> None:
    pixels = np.full((before[1], before[0], 3), 77, np.uint8)
    started = time.process_time()

    result = resize(pixels, after, "area", (0, 0, *after))

    assert np.ptp(result) == 0
    assert abs(int(result[0, 0, 0]) - 77) <= 1  # 40,000 weights in float32
    assert time.process_time() - started < 20  # a loop over the pixels takes minutes


@pytest.mark.parametrize("filter", ["bicubic", "box", "hamming", "lanczos"])
def test_a_filter_that_cannot_be_reproduced_is_rejected(filter: str) -> None:
    step = {"op": "resize", "height": 8, "width": 8, "filter": filter, "backend": "cv2"}

    with pytest.raises(ValidationError, match="nearest, bilinear and area"):
        spec(step)


def test_pillow_has_no_area_filter() -> None:
    with pytest.raises(ValidationError, match="lanczos, not area"):
        spec({"op": "resize", "height": 8, "width": 8, "filter": "area"})


def test_pillow_s_luminance_is_convert_s() -> None:
    image = noise(61, 47)

    result = replicated(np.asarray(image), "pillow")

    assert np.array_equal(result, np.asarray(image.convert("L").convert("RGB")))


def test_opencv_s_luminance_is_that_of_cvtcolor() -> None:
    result = replicated(np.asarray(noise(64, 48)), "cv2")

    digest = hashlib.sha256(np.ascontiguousarray(result[..., 0]).tobytes()).hexdigest()
    assert digest[:16] == "d510cd9a4ee4f5b4"


def test_a_grey_step_can_stand_anywhere() -> None:
    image = noise(61, 47)
    resize_ = {"op": "resize", "height": 9, "width": 7, "filter": "bilinear"}
    grey = {"op": "grey", "backend": "pillow"}

    first = apply(image, spec(grey, resize_))
    last = apply(image, spec(resize_, grey))

    by_pillow = image.convert("L").resize((7, 9), Image.Resampling.BILINEAR).convert("RGB")
    assert np.array_equal(first, np.asarray(by_pillow))
    resized = image.resize((7, 9), Image.Resampling.BILINEAR).convert("L").convert("RGB")
    assert np.array_equal(last, np.asarray(resized))
    assert spec(resize_, grey).output_size == (9, 7)
