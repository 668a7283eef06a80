"""Batches of training images."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.models.training.pictures import picture, put
from tidegate.models.data.training_data import Labelled
from tidegate.models.errors import BuildRefused
from tidegate.models.importers.torch_runtime import require
from tidegate.models.training.images import Images, batches, epoch_batches

torch_test = pytest.mark.usefixtures("torch_as_it_was")


@pytest.mark.parametrize(
    ("images", "batch", "sizes"),
    [(10, 4, {3, 4}), (64, 64, {64}), (65, 64, {32, 33}), (21, 2, {2, 3}), (3, 2, {3})],
)
def test_batches_have_nearly_equal_sizes_and_never_one_image(
    images: int, batch: int, sizes: set[int]
) -> None:
    found = epoch_batches(np.arange(images), batch, (0,))

    assert {len(places) for places in found} == sizes
    assert [index for places in found for index, _ in places] == list(range(images))


@pytest.mark.torch
@torch_test
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_loaded_is_named(tmp_path: Path, workers: int) -> None:
    torn = put(tmp_path / "torn.png", picture(0))
    torn.write_bytes(torn.read_bytes()[:100])
    images = Images([Labelled(torn, 0)], lambda image: image)

    with pytest.raises(BuildRefused, match=f"^{torn} cannot be loaded: .*Repair or remove it.$"):
        list(batches(images, [[0]], workers))


@pytest.mark.torch
@torch_test
def test_processes_that_load_images_leave_signals_to_the_training(tmp_path: Path) -> None:
    numbers = signal.SIGINT, signal.SIGTERM

    def signalled(image: Any) -> Any:
        for number in numbers:
            os.kill(os.getpid(), number)
        return require("torch").tensor(os.getpid())

    images = Images([Labelled(put(tmp_path / "a.png", picture(0)), 0)], signalled)

    ((found, _),) = batches(images, [[0]], workers=1)

    assert found.item() != os.getpid()
