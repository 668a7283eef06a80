"""Brightness, contrast and blur equal their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.unit.imaging.pictures import noise
from tidegate.service.imaging.statistics import BLUR_FLOOR, input_statistics
from tidegate.service.types import Pixels


def flat(*colour: int, side: int = 9) -> Pixels:
    return Pixels(np.full((side, side, 3), colour, np.uint8))


def test_black_is_dark_and_white_is_bright() -> None:
    assert input_statistics(flat(0, 0, 0), "rgb").brightness == 0
    assert input_statistics(flat(255, 255, 255), "rgb").brightness == pytest.approx(1, abs=1e-6)


def test_brightness_weighs_colours_as_the_eye_does_in_either_order() -> None:
    red = flat(255, 0, 0)

    assert input_statistics(red, "rgb").brightness == pytest.approx(0.299, abs=1e-6)
    assert input_statistics(red, "bgr").brightness == pytest.approx(0.114, abs=1e-6)


def test_contrast_is_the_standard_deviation_of_luma() -> None:
    half = flat(0, 0, 0, side=8)
    half[:4] = 255

    assert input_statistics(half, "rgb").contrast == pytest.approx(0.5, abs=1e-6)
    assert input_statistics(flat(9, 90, 200), "rgb").contrast == pytest.approx(0, abs=1e-6)


def test_blur_is_the_logarithm_of_the_laplacian_s_variance() -> None:
    pixels = Pixels(np.asarray(noise(40, 30)))
    luma = pixels.astype(np.float64) @ (0.299, 0.587, 0.114) / 255
    edges = [
        luma[y - 1, x] + luma[y + 1, x] + luma[y, x - 1] + luma[y, x + 1] - 4 * luma[y, x]
        for y in range(1, 29)
        for x in range(1, 39)
    ]

    assert input_statistics(pixels, "rgb").blur == pytest.approx(
        math.log10(np.var(edges)), abs=1e-5
    )


def test_blurring_an_image_lowers_its_blur_number() -> None:
    image = noise(64, 64)
    blurred = [image.filter(ImageFilter.GaussianBlur(radius)) for radius in (0, 1, 2, 4)]

    numbers = [number(step) for step in blurred]

    assert numbers == sorted(numbers, reverse=True)
    assert len(set(numbers)) == 4


@pytest.mark.parametrize("pixels", [flat(7, 7, 7), flat(1, 2, 3, side=2), flat(0, 0, 0, side=1)])
def test_an_image_without_edges_is_at_the_floor(pixels: Pixels) -> None:
    assert input_statistics(pixels, "rgb").blur == BLUR_FLOOR


def number(image: Image.Image) -> float:
    return input_statistics(Pixels(np.asarray(image)), "rgb").blur
