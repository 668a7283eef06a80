"""The slice of train that chooses the epoch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tidegate.models.data.training_data import Labelled
from tidegate.models.errors import BuildRefused
from tidegate.models.training.hold_out import hold_out


def images(*counts: int) -> list[Labelled]:
    return [
        Labelled(Path(f"{c}/{n}.png"), c) for c, count in enumerate(counts) for n in range(count)
    ]


def test_each_class_gives_its_share_and_at_least_one_image() -> None:
    everything = images(300, 100, 4)

    kept, held = hold_out(everything, 0.1, seed=0)

    assert Counter(image.class_id for image in held) == {0: 30, 1: 10, 2: 1}
    assert {*kept} | {*held} == {*everything}
    assert not {*kept} & {*held}


def test_the_seed_decides_which() -> None:
    first, again, other = (hold_out(images(300, 100), 0.1, seed)[1] for seed in (0, 0, 1))

    assert first == again != other


def test_a_slice_that_is_too_small_is_refused() -> None:
    with pytest.raises(BuildRefused, match="has 4 images, and needs 20"):
        hold_out(images(20, 20), 0.1, seed=0)
    with pytest.raises(BuildRefused, match="Class 1 has a single training image"):
        hold_out(images(300, 1), 0.1, seed=0)
