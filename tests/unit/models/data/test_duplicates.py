"""Images in two splits whose files differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.imaging.pictures import noise
from tidegate.models.data.duplicates import Mark, Marked, check_pixels_disjoint, nearly_same
from tidegate.models.data.folders import Item, Split
from tidegate.models.errors import BuildRefused
from tidegate.service.types import Pixels


def marked(name: str, images: list[Pixels]) -> Marked:
    items = tuple(Item(Path(f"{name}/{i}.png"), 0, f"{name}{i}") for i in range(len(images)))
    return Marked(Split(name, items), [Mark.of(image) for image in images])


def pictures(count: int, seed: int) -> list[Pixels]:
    """Return smooth images, which differ in large areas as photographs do."""
    rng = np.random.default_rng(seed)
    return [
        Pixels(np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8))
        for _ in range(count)
    ]


def test_the_same_pixels_in_two_splits_are_refused_whatever_the_files() -> None:
    train, test = pictures(5, 0), pictures(3, 1)

    check_pixels_disjoint([marked("train", train)], marked("test", test))
    with pytest.raises(BuildRefused, match=r"train/2.png \(train\) and test/1.png \(test\) have"):
        check_pixels_disjoint([marked("train", train)], marked("test", [test[0], train[2]]))


def test_images_that_are_nearly_the_same_are_counted_and_named() -> None:
    train = pictures(40, 0)
    rng = np.random.default_rng(5)
    again = [
        Pixels(np.clip(image + rng.integers(-4, 5, image.shape), 0, 255).astype(np.uint8))
        for image in train[:3]
    ]

    found = nearly_same(marked("train", train), marked("test", [*pictures(9, 1), *again]))

    assert found is not None
    assert found.startswith("3 of 12 images of test are nearly the same as an image of train")
    assert "9.png and 0.png" in found


def test_other_images_are_not_nearly_the_same() -> None:
    assert nearly_same(marked("train", pictures(200, 0)), marked("test", pictures(50, 1))) is None
    assert nearly_same(marked("train", []), marked("test", pictures(5, 1))) is None


def test_every_like_pair_is_found_whatever_its_contrast() -> None:
    rng = np.random.default_rng(3)
    train = [np.asarray(noise(24, 24, seed)) // int(rng.integers(1, 60)) for seed in range(100)]
    marks = [Mark.of(Pixels(image)) for image in train]
    known, found = (
        marked(name, [Pixels(i) for i in part])
        for name, part in (("train", train[:60]), ("test", train[60:]))
    )
    expected = sum(
        any(mark.seen.is_like(other.seen) for other in marks[:60]) for mark in marks[60:]
    )

    sentence = nearly_same(known, found)

    assert (sentence or "0 of").startswith(f"{expected} of")
