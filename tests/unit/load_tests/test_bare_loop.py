"""The bare loop that servers are compared with, on a tiny graph of its own."""

import itertools
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from load_tests.bare import preprocess, run_round


class FakeSession:
    """An engine that takes what the demo graph takes and notes each input."""

    def __init__(self) -> None:
        self.inputs: list[np.ndarray] = []

    def get_inputs(self) -> list["FakeSession"]:
        return [self]

    name = "pixels"
    shape = ("batch", 32, 32, 3)

    def run(self, outputs: None, feed: dict[str, np.ndarray]) -> None:
        self.inputs.append(feed["pixels"])


def _encoded(image: Image.Image, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(64, 64), (41, 77), (500, 375), (3, 5)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_every_image_becomes_one_batch_of_pixels(size: tuple[int, int], mode: str) -> None:
    pixels = preprocess(_encoded(Image.new(mode, size)), 224)

    assert pixels.shape == (1, 224, 224, 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize(("inset", "whole"), [(64, True), (65, False)])
def test_the_crop_is_the_central_seven_eighths_of_the_short_side(inset: int, whole: bool) -> None:
    image = Image.new("RGB", (2048, 1024))
    white = (512 + inset, inset, 512 + 1024 - inset, 1024 - inset)  # 896 × 896 when inset by 64
    image.paste((255, 255, 255), white)

    assert bool(preprocess(_encoded(image), 224).min() == 255) is whole


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (64, 64))
    image.paste((255, 255, 255), (0, 0, 32, 64))  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90° clockwise: the left half becomes the top

    pixels = preprocess(_encoded(image, exif=exif), 32)[0]

    assert pixels[2].min() > 250
    assert pixels[-3].max() < 5


def test_a_round_counts_its_images_and_its_own_cpu() -> None:
    session = FakeSession()
    images = itertools.cycle([_encoded(Image.new("RGB", (64, 64)))])

    result = run_round(session, images, seconds=0.1)

    assert result["images"] == len(session.inputs) > 1
    assert 0 < result["cpu_s"] <= result["wall_s"] + 0.02  # one thread; clocks differ by a little
