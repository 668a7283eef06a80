from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.server import DEMO_BUNDLE
from tidegate.service.bundle.store import read_manifest
from tidegate.service.imaging.occlusion import (
    covered,
    fall_of_log_odds,
    fill_of,
    heat_map,
    patches,
    picture,
    png,
)
from tidegate.service.types import Pixels

SPEC = read_manifest(DEMO_BUNDLE).preprocess
BGR = SPEC.model_copy(update={"channel_order": "bgr"})


def pixels(height: int = 30, width: int = 20) -> Pixels:
    return Pixels(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("grid", [2, 3, 7, 14])
@pytest.mark.parametrize(("height", "width"), [(224, 224), (30, 20), (28, 28)])
def test_the_patches_cover_every_pixel_and_are_inside(height: int, width: int, grid: int) -> None:
    seen = np.zeros((height, width), int)
    found = list(patches(height, width, grid))
    for patch in found:
        before = int((seen > 0).sum())
        seen[patch.rows, patch.columns] += 1
        assert seen[patch.rows, patch.columns].size > 0
        assert before <= int((seen > 0).sum())

    assert len(found) == grid * grid
    assert seen.min() >= 1


def test_an_inner_patch_is_a_cell_and_half_a_cell_around_it() -> None:
    patch = list(patches(224, 224, 7))[8]  # second row, second column

    assert (patch.rows, patch.columns) == (slice(16, 80), slice(16, 80))


def test_a_covered_part_becomes_zero_in_the_network_and_the_rest_stays() -> None:
    image = pixels()
    patch = next(patches(30, 20, 2))

    result = covered(image, patch, fill_of(SPEC))

    fill = np.array(fill_of(SPEC)) * SPEC.scale - np.array(SPEC.mean)
    assert np.abs(fill).max() <= 0.5  # a whole number of the 256 levels
    assert (result[patch.rows, patch.columns] == fill_of(SPEC)).all()
    outside = np.ones((30, 20), bool)
    outside[patch.rows, patch.columns] = False
    assert (result[outside] == image[outside]).all()
    assert not (image == result).all()


def test_the_fall_of_log_odds_is_positive_where_the_probability_falls() -> None:
    falls = fall_of_log_odds(0.9, np.array([[0.9, 0.5], [0.95, 1.0]]))

    assert falls[0, 0] == pytest.approx(0)
    assert falls[0, 1] == pytest.approx(np.log(9))
    assert falls[1, 0] < 0
    assert np.isfinite(falls).all()
    assert np.isfinite(fall_of_log_odds(1.0, np.zeros((2, 2)))).all()


def test_the_heat_map_is_orange_for_and_blue_against_and_grey_elsewhere() -> None:
    grey = Pixels(np.full((30, 30, 3), 100, np.uint8))
    falls = np.zeros((3, 3))
    falls[0, 0], falls[2, 2] = 2.0, -2.0

    drawn = heat_map(grey, falls, SPEC).astype(int)

    assert drawn[3, 3, 0] > drawn[3, 3, 2] + 50
    assert drawn[26, 26, 2] > drawn[26, 26, 0] + 50
    assert np.abs(drawn[3, 26] - 100).max() < 25


def test_a_picture_is_red_green_blue_whatever_the_networks_order() -> None:
    image = pixels()

    for spec, order in ((SPEC, image), (BGR, image[:, :, ::-1])):
        shown = np.asarray(Image.open(io.BytesIO(png(picture(image, spec)))))
        assert (shown == order).all()
