"""Steps that keep the aspect ratio, and canvases: as the code of letterboxes and timm does it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.imaging.pictures import noise, spec
from tidegate.service.imaging.geometry import Scale, Size, steps
from tidegate.service.imaging.preprocess import apply

sides = st.integers(1, 5_000)
sizes = st.integers(1, 700)


def keeping_ratio(height: int, width: int, **changes: Any) -> dict[str, Any]:
    return {
        "op": "resize-keep-ratio",
        "height": height,
        "width": width,
        "fit": "inside",
        "factor": "product",
        "rounding": "round",
        "filter": "bilinear",
    } | changes


def pad(height: int, width: int, colour: tuple[int, int, int] = (114, 114, 114)) -> dict[str, Any]:
    return {"op": "pad", "height": height, "width": width, "colour": colour, "offset": "half-even"}


def scaled(step: dict[str, Any], size: Size) -> Size:
    """Return the size after the resize of `step` and a canvas."""
    found = list(steps(spec(step, pad(8, 8)), size))
    return found[0].size if isinstance(found[0], Scale) else size


@given(sides, sides, sizes, sizes)
def test_a_letterbox_has_the_sides_of_the_usual_code(
    width: int, height: int, to_width: int, to_height: int
) -> None:
    ratio = min(to_height / height, to_width / width)  # as ultralytics's LetterBox
    expected = round(width * ratio), round(height * ratio)

    made = scaled(keeping_ratio(to_height, to_width), (width, height))

    assert made == (max(1, expected[0]), max(1, expected[1]))


@given(sides, sides, sizes, sizes, st.sampled_from((0.0, 1.0)))
def test_a_quotient_gives_the_sides_of_timm(
    width: int, height: int, to_width: int, to_height: int, longest: float
) -> None:
    ratios = height / to_height, width / to_width  # as timm's ResizeKeepRatio
    ratio = max(ratios) * longest + min(ratios) * (1.0 - longest)
    expected = round(width * 1.0 / ratio), round(height * 1.0 / ratio)

    fit = "inside" if longest else "cover"
    made = scaled(keeping_ratio(to_height, to_width, fit=fit, factor="quotient"), (width, height))

    assert made == (max(1, expected[0]), max(1, expected[1]))


@pytest.mark.parametrize("size", [(40, 20), (20, 41), (3, 3), (64, 64), (200, 9)])
def test_a_canvas_has_its_colour_around_the_image(size: Size) -> None:
    image = noise(*size)

    made = apply(image, spec(pad(32, 48, (1, 2, 3))))

    whole = np.full((32 + 2 * size[1], 48 + 2 * size[0], 3), (1, 2, 3), np.uint8)
    top, left = (
        ((32 - size[1]) // 2 if size[1] < 32 else -round((size[1] - 32) / 2)),
        ((48 - size[0]) // 2 if size[0] < 48 else -round((size[0] - 48) / 2)),
    )
    whole[size[1] + top : 2 * size[1] + top, size[0] + left : 2 * size[0] + left] = np.asarray(
        image
    )
    assert np.array_equal(made, whole[size[1] : size[1] + 32, size[0] : size[0] + 48])


def test_a_letterbox_resizes_into_its_canvas() -> None:
    image = noise(100, 50)

    made = apply(image, spec(keeping_ratio(40, 40, backend="cv2"), pad(40, 40)))

    assert made.shape == (40, 40, 3)
    assert (made[:10] == 114).all()
    assert (made[30:] == 114).all()
    assert np.array_equal(
        made[10:30],
        apply(
            image,
            spec(
                {"op": "resize", "height": 20, "width": 40, "filter": "bilinear", "backend": "cv2"}
            ),
        ),
    )


def test_the_size_is_checked_before_a_pixel_is_decoded() -> None:
    found = [step.size for step in steps(spec(keeping_ratio(8, 8), pad(8, 8)), (1, 60_000))]

    assert found == [(1, 8), (8, 8)]
