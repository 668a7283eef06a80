"""Backend torch equals torchvision's tensor transforms, without torch.

The digests are from torch 2.13.0 (CPU, AVX2 or AVX-512), for `noise(width, height)` as planes x:
`torch.nn.functional.interpolate(x[None], (height, width), mode=filter, antialias=True)[0]`, back as
[H, W, 3], sha256 of its bytes. The comparison over the probe set is tests/unit/models/test_parity.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from tests.unit.imaging.pictures import encode, noise, preprocessed, spec
from tidegate.service.errors import ImageTooLarge
from tidegate.service.imaging.geometry import Cut, Scale, plan
from tidegate.service.imaging.preprocess import apply
from tidegate.service.imaging.spec import Filter, PreprocessSpec
from tidegate.service.imaging.torch_resize import resize

Pixels = NDArray[np.uint8]
sides = st.integers(1, 90)
filters = st.sampled_from(("bilinear", "bicubic"))

# torch's results, by the recipe above: (width, height) → (width, height), filter, 16 of 64 digits.
DIGESTS: tuple[tuple[tuple[int, int], tuple[int, int], Filter, str], ...] = (
    ((500, 375), (341, 256), "bilinear", "66c82a34ca4defba"),
    ((61, 47), (224, 224), "bilinear", "2e705878fcdbc31f"),
    ((333, 1001), (97, 33), "bilinear", "bd2ddd321297ebb5"),
    ((1, 9), (7, 31), "bilinear", "5f17918ffad1af89"),
    ((640, 12), (3, 12), "bilinear", "87fba884034da1db"),
    ((20000, 2), (100, 5), "bilinear", "c41f1697b9475fc7"),
    ((500, 375), (341, 256), "bicubic", "c55f1531acd8c604"),
    ((61, 47), (224, 224), "bicubic", "e0aac7b231cf26b2"),
    ((333, 1001), (97, 33), "bicubic", "f96df87bd15eec65"),
    ((1, 9), (7, 31), "bicubic", "304e775e8c35aec4"),
    ((640, 12), (3, 12), "bicubic", "b54037aa2a27cf35"),
    ((20000, 2), (100, 5), "bicubic", "23f8f6f4d176b9d7"),
)
CROP = {"op": "centre-crop", "height": 8, "width": 8, "offset": "floor"}
STEPS: tuple[dict[str, object], ...] = (
    {"op": "resize", "height": 8, "width": 8},
    {"op": "resize-shortest-edge", "size": 8, "rounding": "round"},
)


@pytest.mark.parametrize(("before", "after", "filter", "digest"), DIGESTS)
def test_the_pixels_are_torch_s_own(
    before: tuple[int, int], after: tuple[int, int], filter: Filter, digest: str
) -> None:
    result = resize(np.asarray(noise(*before)), after, filter, (0, 0, *after))

    assert hashlib.sha256(result.tobytes()).hexdigest()[:16] == digest


@pytest.mark.lengthy
@settings(max_examples=60, deadline=None)
@given(sides, sides, sides, sides, filters)
@example(3_000, 1, 5, 4, "bicubic")
@example(1, 3_000, 4, 5, "bilinear")
def test_matrix_products_equal_integer_arithmetic_written_out(
    width: int, height: int, new_width: int, new_height: int, filter: Filter
) -> None:
    pixels = np.asarray(noise(width, height))

    result = resize(pixels, (new_width, new_height), filter, (0, 0, new_width, new_height))

    across = one_pass(pixels.transpose(2, 0, 1), new_width, filter)
    down = one_pass(across.swapaxes(1, 2), new_height, filter).swapaxes(1, 2)
    assert np.array_equal(result, down.transpose(1, 2, 0))


def test_a_sum_too_large_for_float32_is_still_exact() -> None:
    bits, taps = integer_weights(3_000, 2, "bilinear")
    pixels = np.zeros((1, 3_000, 3), np.uint8)
    left = 100 * 2**bits + 2 ** (bits - 1) - 1  # the last sum that rounds to 100
    low, weights = taps[0]
    for tap in np.argsort(-weights, kind="stable"):
        level = min(255, left // max(1, int(weights[tap])))
        pixels[0, low + tap] = level
        left -= level * int(weights[tap])

    result = resize(pixels, (2, 1), "bilinear", (0, 0, 2, 1))

    assert 0 <= left < 16  # in float32 it would be 100.5
    assert result[0, 0].tolist() == [100, 100, 100]


@pytest.mark.lengthy
@settings(max_examples=60, deadline=None)
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


def test_a_crop_that_follows_is_made_with_the_resize() -> None:
    operations = plan(edge_then_crop(24), (100, 50))

    assert operations == (Scale((64, 32), "bilinear", "torch", window=(20, 4, 44, 28)),)


@pytest.mark.parametrize("crop", [24, 32, 40, 63, 70])
def test_a_windowed_resize_equals_a_resize_and_a_crop(crop: int) -> None:
    image = noise(100, 50)

    whole = resize(np.asarray(image), (64, 32), "bilinear", (0, 0, 64, 32))

    (cut,) = plan(spec(edge_then_crop(crop).steps[1].model_dump()), (64, 32))
    assert isinstance(cut, Cut)
    expected = np.asarray(Image.fromarray(whole).crop(cut.box))
    assert np.array_equal(apply(image, edge_then_crop(crop)), expected)


@pytest.mark.parametrize("filter", ["nearest", "box", "hamming", "lanczos"])
@pytest.mark.parametrize("step", STEPS)
def test_a_filter_that_torch_does_not_antialias_is_rejected(
    filter: str, step: dict[str, object]
) -> None:
    with pytest.raises(ValidationError, match="bilinear and bicubic"):
        spec({**step, "filter": filter, "backend": "torch"}, CROP)


def test_a_sliver_is_bounded_as_with_pillow() -> None:
    with pytest.raises(ImageTooLarge, match="too narrow"):
        preprocessed(encode(noise(1, 60_000), "PNG"), edge_then_crop(24, size=256))


def test_the_rows_between_the_passes_are_bounded_too() -> None:
    step = {"op": "resize", "height": 8, "width": 224, "filter": "bilinear", "backend": "torch"}

    with pytest.raises(ImageTooLarge, match="would enlarge it to 224 × 230000"):
        preprocessed(encode(noise(1, 230_000), "PNG"), spec(step))


def test_a_side_is_bounded() -> None:
    step = {"op": "resize", "height": 8, "width": 8, "filter": "bilinear", "backend": "torch"}

    with pytest.raises(ImageTooLarge, match="at most 262,144"):
        preprocessed(encode(noise(300_000, 1), "PNG"), spec(step))


def edge_then_crop(crop: int, size: int = 32) -> PreprocessSpec:
    edge = {
        "op": "resize-shortest-edge",
        "size": size,
        "rounding": "truncate",
        "filter": "bilinear",
        "backend": "torch",
    }
    cut = {"op": "centre-crop", "height": crop, "width": crop, "offset": "half-even"}
    return spec(edge, cut)


def one_pass(planes: Pixels, after: int, filter: Filter) -> Pixels:
    """Resize the last axis like ATen's integer kernel, one output at a time."""
    before = planes.shape[-1]
    if before == after:
        return planes
    bits, taps = integer_weights(before, after, filter)
    result = np.empty((*planes.shape[:-1], after), np.uint8)
    for output, (low, whole) in enumerate(taps):
        sums = planes[..., low : low + len(whole)].astype(np.int64) @ whole
        result[..., output] = np.clip((sums + 2 ** (bits - 1)) >> bits, 0, 255)
    return result


def integer_weights(
    before: int, after: int, filter: Filter
) -> tuple[int, list[tuple[int, NDArray[np.int64]]]]:
    """Return the fractional bits, and each output's first source pixel and weights."""
    scale = before / after
    reach = (1.0 if filter == "bilinear" else 2.0) * max(scale, 1.0)
    taps: list[tuple[int, list[float]]] = []
    for output in range(after):
        centre = scale * (output + 0.5)
        low, high = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), before)
        weights = [
            kernel(abs(source - centre + 0.5) / max(scale, 1.0), filter)
            for source in range(low, high)
        ]
        total = sum(weights)
        taps.append((low, [weight / total for weight in weights]))
    bits, largest = 0, max(max(weights) for _, weights in taps)
    while bits < 22 and int(0.5 + largest * 2 ** (bits + 1)) < 2**15:
        bits += 1
    return bits, [
        (low, np.array([int(w * 2**bits + (0.5 if w >= 0 else -0.5)) for w in weights]))
        for low, weights in taps
    ]


def kernel(x: float, filter: Filter) -> float:
    if filter == "bilinear":
        return max(0.0, 1 - x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2 else 0.0
