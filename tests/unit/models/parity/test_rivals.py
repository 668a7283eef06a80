"""A preprocessing that is not stated, against those that training may have used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.unit.models import tiny
from tests.unit.models.colour_folders import imported
from tidegate.models.data.folders import Item, Split
from tidegate.models.errors import BuildRefused
from tidegate.models.importers.base import Rival
from tidegate.models.parity.rivals import check_rivals
from tidegate.service.imaging.spec import PreprocessSpec, Resize

SIDE = tiny.SIDE


def sized(side: int) -> PreprocessSpec:
    step = Resize(height=side, width=side, filter="bilinear")
    return tiny.SPEC.model_copy(update={"steps": (step,)})


def split(folder: Path, count: int = 80) -> Split:
    """Write images of two classes, dark and light, and return them."""
    rng, items = np.random.default_rng(0), []
    for index in range(count):
        level = 40 if index % 2 == 0 else 200
        pixels = np.clip(rng.normal(level, 20, (12, 12, 3)), 0, 255).astype(np.uint8)
        path = folder / f"{index}.png"
        Image.fromarray(pixels).save(path)
        items.append(Item(path, index % 2, str(index)))
    return Split("calibrate", tuple(items))


def knows(side: int) -> object:
    """Return a network that recognises the classes in images of one size only."""

    def forward(images: NDArray[np.float32]) -> NDArray[np.float32]:
        if images.shape[-1] < 4:
            raise RuntimeError("the kernel is larger than the image")
        light = images.mean(axis=(1, 2, 3)) > 0
        said = light if images.shape[-1] == side else np.zeros(len(images), np.bool_)
        return np.stack([~said, said], axis=1).astype(np.float32)

    return forward


RIVALS = (Rival("--size 2", sized(2)), Rival("--size 16", sized(16)))


def test_a_clearly_better_preprocessing_is_named_and_the_default_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = imported(spec=sized(SIDE), forward=knows(16), rivals=RIVALS)

    with pytest.raises(BuildRefused, match=r"With --size 16, 100.0% of 80 .* but 50.0% with"):
        check_rivals(model, split(tmp_path))
    said = capsys.readouterr().err
    assert "--size 16: 100.0%" in said
    assert "--size 2:" not in said  # which the network cannot take


def test_the_default_stays_if_it_is_best_or_as_good(tmp_path: Path) -> None:
    images = split(tmp_path)

    check_rivals(imported(spec=sized(SIDE), forward=knows(SIDE), rivals=RIVALS), images)
    check_rivals(imported(spec=sized(SIDE), forward=knows(99), rivals=RIVALS), images)


def test_a_difference_on_few_images_is_no_reason(tmp_path: Path) -> None:
    images = split(tmp_path, 6)

    check_rivals(imported(spec=sized(SIDE), forward=knows(16), rivals=RIVALS), images)


def test_nothing_is_compared_if_the_preprocessing_is_stated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = imported(spec=sized(SIDE), forward=knows(16))

    check_rivals(model, split(tmp_path))
    check_rivals(replace(model, forward=None, rivals=RIVALS), split(tmp_path))
    assert capsys.readouterr().err == ""
