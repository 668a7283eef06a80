"""A burst of like images is counted once, and other images always."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.server import PHOTOS
from tidegate.service.drift.duplicates import (
    MAX_REMEMBERED_CLIENTS,
    MAX_REMEMBERED_IMAGES,
    Duplicates,
    fingerprint,
)
from tidegate.service.types import Pixels


def pixels(name: str, shift: int = 0, quality: int = 0) -> Pixels:
    with Image.open(PHOTOS / name) as image:
        photo = image.convert("RGB").resize((240, 240))
    return Pixels(np.ascontiguousarray(np.asarray(photo)[8 : 8 + 224, 8 + shift : 8 + shift + 224]))


@pytest.fixture
def duplicates() -> Duplicates:
    return Duplicates()


def test_the_same_image_within_a_minute_is_counted_once(duplicates: Duplicates) -> None:
    image = fingerprint(pixels("coffee.png"))

    counted = [duplicates.is_new(image, f"client {second}", second) for second in range(0, 180, 10)]

    assert sum(counted) == 3  # at 0, 60 and 120 s


def test_a_nearly_equal_image_of_the_same_client_is_counted_once(duplicates: Duplicates) -> None:
    rng = np.random.default_rng(0)
    first = pixels("coffee.png")
    noisy = Pixels(np.clip(first + rng.integers(-4, 5, first.shape), 0, 255).astype(np.uint8))

    assert duplicates.is_new(fingerprint(first), "a", 0)
    assert not duplicates.is_new(fingerprint(noisy), "a", 1)
    assert duplicates.is_new(fingerprint(noisy), "b", 1)


def test_a_slightly_moved_scene_of_the_same_client_is_counted_once(duplicates: Duplicates) -> None:
    assert duplicates.is_new(fingerprint(pixels("chelsea.png")), "a", 0)
    assert not duplicates.is_new(fingerprint(pixels("chelsea.png", shift=1)), "a", 1)


def test_other_images_of_the_same_client_are_counted(duplicates: Duplicates) -> None:
    names = ("coffee.png", "chelsea.png", "brick.png", "grass.png")

    assert all(
        duplicates.is_new(fingerprint(pixels(name)), "a", second)
        for second, name in enumerate(names)
    )


def test_flat_images_of_other_brightness_are_counted(duplicates: Duplicates) -> None:
    dark, bright = (Pixels(np.full((32, 32, 3), level, np.uint8)) for level in (10, 200))

    assert duplicates.is_new(fingerprint(dark), "a", 0)
    assert duplicates.is_new(fingerprint(bright), "a", 1)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (8, 8), (224, 224)])
def test_every_size_has_a_fingerprint(size: tuple[int, int]) -> None:
    image = fingerprint(Pixels(np.full((*size, 3), 7, np.uint8)))

    assert image.cells.shape == (64,)
    assert image.contrast == 0


def test_a_clock_that_is_set_back_does_not_hide_images(duplicates: Duplicates) -> None:
    image = fingerprint(pixels("coffee.png"))
    duplicates.is_new(image, "a", 1000)

    assert duplicates.is_new(image, "a", 10)


def test_the_memory_is_bounded(duplicates: Duplicates) -> None:
    rng = np.random.default_rng(0)
    for client in range(MAX_REMEMBERED_IMAGES + 50):
        image = Pixels(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        duplicates.is_new(fingerprint(image), str(client), 0)

    assert len(duplicates._counted) == MAX_REMEMBERED_IMAGES
    assert len(duplicates._of_client) == MAX_REMEMBERED_CLIENTS
