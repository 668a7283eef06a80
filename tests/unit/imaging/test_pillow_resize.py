"""The compiled resize gives Pillow's pixels, on every path that this machine has."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tidegate.service.imaging import pillow_resize
from tidegate.service.imaging.geometry import Box, Scale, Size
from tidegate.service.imaging.spec import FILTERS, Filter

_resample = pytest.importorskip(
    "tidegate.service.imaging._resample", reason="built without a C compiler"
)
# Of `noise(before)`, by Pillow 13 on x86-64.
DIGESTS: tuple[tuple[Size, Size, Filter, str], ...] = (
    ((500, 375), (341, 256), "box", "b7fe5e0c4f9d781b"),
    ((500, 375), (341, 256), "bilinear", "8556d79512378cd4"),
    ((500, 375), (341, 256), "hamming", "286427b9858196cc"),
    ((500, 375), (341, 256), "bicubic", "6c8610dcfcd74791"),
    ((500, 375), (341, 256), "lanczos", "2627d03656a5faac"),
    ((61, 47), (224, 224), "box", "c5bee4cb38f4bd10"),
    ((61, 47), (224, 224), "bilinear", "cdc2ac72f1a09ad2"),
    ((61, 47), (224, 224), "hamming", "4eac31319771d7bf"),
    ((61, 47), (224, 224), "bicubic", "58164a467e3cf8a8"),
    ((61, 47), (224, 224), "lanczos", "0dfb3f33eb529ba5"),
    ((333, 1001), (97, 33), "box", "e6a2f080ff11c471"),
    ((333, 1001), (97, 33), "bilinear", "a14041201cf07ef4"),
    ((333, 1001), (97, 33), "hamming", "f1bb5336d82189bd"),
    ((333, 1001), (97, 33), "bicubic", "e60dc6acd57b45bd"),
    ((333, 1001), (97, 33), "lanczos", "39a5bc6ca522f8ec"),
)
COMPILED = [name for name in FILTERS["pillow"] if name != "nearest"]
sides = st.one_of(st.integers(1, 9), st.integers(1, 700))


PATHS = ["c", "neon"] if platform.machine() == "aarch64" else ["c", "avx2", "vnni"]


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    try:
        _resample.choose(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    _resample.choose(_resample.PATH)


def noise(size: Size, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))


@st.composite
def boxes(draw: st.DrawFn, size: Size) -> Box:
    left, upper = draw(st.integers(0, size[0] - 1)), draw(st.integers(0, size[1] - 1))
    right, lower = draw(st.integers(left + 1, size[0])), draw(st.integers(upper + 1, size[1]))
    return left, upper, right, lower


@st.composite
def scales(draw: st.DrawFn, size: Size) -> Scale:
    to = draw(sides.filter(lambda n: n < 300)), draw(sides.filter(lambda n: n < 300))
    return Scale(
        to,
        draw(st.sampled_from(COMPILED)),
        source=draw(st.none() | boxes(size)),
        window=draw(st.none() | boxes(to)),
    )


@pytest.mark.lengthy
@given(data=st.data(), size=st.tuples(sides, sides), seed=st.integers(0, 99))
@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
def test_any_window_of_any_resize_is_pillows(
    path: str, data: st.DataObject, size: Size, seed: int
) -> None:
    image, to = noise(size, seed), data.draw(scales(size))

    made = pillow_resize.resize(image, to)

    assert np.array_equal(made, pillow_resize.by_pillow(image, to))


@pytest.mark.lengthy
@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize(
    "size", [(500, 375), (375, 500), (1920, 1080), (1080, 1920), (300, 1000), (4000, 3000)]
)
def test_photographs_sizes_are_resized_as_pillow_does(path: str, name: Filter, size: Size) -> None:
    short = min(size)
    to = 256 * size[0] // short, 256 * size[1] // short
    left, upper = (to[0] - 224) // 2, (to[1] - 224) // 2
    scale = Scale(to, name, window=(left, upper, left + 224, upper + 224))
    image = noise(size)

    made = pillow_resize.resize(image, scale)

    assert np.array_equal(made, pillow_resize.by_pillow(image, scale))


@pytest.mark.parametrize(("before", "after", "name", "digest"), DIGESTS)
def test_the_pixels_are_the_same_on_every_cpu(
    path: str, before: Size, after: Size, name: Filter, digest: str
) -> None:
    made = pillow_resize.resize(noise(before), Scale(after, name))

    assert hashlib.sha256(made.tobytes()).hexdigest()[:16] == digest


def test_saturated_edges_overshoot_and_are_clipped_as_pillow_clips_them(path: str) -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::7], stripes[:, ::5] = 255, 255
    image, scale = Image.fromarray(stripes), Scale((200, 171), "lanczos")

    made = pillow_resize.resize(image, scale)

    assert np.array_equal(made, pillow_resize.by_pillow(image, scale))
    assert {0, 255} <= set(made.ravel().tolist())


def test_a_large_image_is_allocated_in_one_block() -> None:
    image = noise((4000, 3000))

    assert image.__arrow_c_array__()


def test_nearest_is_left_to_pillow() -> None:
    image, scale = noise((50, 40)), Scale((23, 31), "nearest", window=(3, 4, 20, 30))

    made = pillow_resize.resize(image, scale)

    assert np.array_equal(made, pillow_resize.by_pillow(image, scale))


def test_arguments_that_do_not_match_are_rejected() -> None:
    image, out = noise((8, 6)), np.empty((4, 4, 3), np.uint8)
    _, lent = image.__arrow_c_array__()
    whole, made = (0, 0, 8, 6), (0, 0, 4, 4)
    refused = [
        (lent, (8, 7), whole, (4, 4), "box", made, out),  # not the image's size
        (lent, (8, 6), (0, 0, 9, 6), (4, 4), "box", made, out),  # beyond the image
        (lent, (8, 6), whole, (4, 4), "box", (0, 0, 5, 4), out),  # beyond the result
        (lent, (8, 6), whole, (4, 4), "box", (0, 0, 4, 3), out),  # not the buffer's size
        (lent, (8, 6), whole, (4, 4), "sinc", made, out),
        (lent, (8, 6), (2, 0, 2, 6), (4, 4), "box", made, out),  # empty
        (Image.new("L", (8, 6)).__arrow_c_array__()[1], (8, 6), whole, (4, 4), "box", made, out),
        (np.zeros((6, 8, 3), np.uint8), (8, 6), whole, (4, 4), "box", made, out),
    ]

    for arguments in refused:
        with pytest.raises(ValueError, match=r"size|filter"):
            _resample.resize(*arguments)
