"""The demo's temperature: fitted on some labelled images, measured on others."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.models.demo.photographs import Photograph
from tidegate.models.demo.temperature import (
    Labelled,
    class_ids_by_photograph,
    fit_and_measure,
    labelled,
)
from tidegate.service.types import Outputs, Pixels


def images(n: int, temperature: float, seed: int) -> Labelled:
    """Images whose labels were drawn with softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 8)) * 3
    noise = rng.gumbel(size=(n, 8))
    return Labelled(logits.astype(np.float32), (logits / temperature + noise).argmax(axis=1))


@pytest.mark.lengthy
def test_the_temperature_is_that_of_its_own_images_and_the_errors_are_those_of_others() -> None:
    found = fit_and_measure(images(4000, 0.7, 0), {"others": images(4000, 0.7, 1)})

    low, high = found["interval"]
    assert found["temperature"] == pytest.approx(0.7, rel=0.1)
    assert low < found["temperature"] < high
    others = found["measured"]["others"]
    assert others["before"]["ece"] > others["before"]["ece_noise_floor"]
    assert others["after"]["ece"] <= others["after"]["ece_noise_floor"]
    assert others["after"]["nll"] < others["before"]["nll"]


@pytest.mark.lengthy
def test_a_temperature_of_other_images_leaves_an_error() -> None:
    found = fit_and_measure(images(2000, 0.7, 0), {"others": images(2000, 2.0, 1)})

    others = found["measured"]["others"]
    assert others["after"]["ece"] > others["after"]["ece_noise_floor"]


def test_the_measures_of_all_sets_together_are_given_too() -> None:
    sets = {"a": images(30, 1.0, 1), "b": images(50, 1.0, 2)}

    found = fit_and_measure(images(100, 1.0, 0), sets)

    assert {name: item["images"] for name, item in found["measured"].items()} == {
        "a": 30,
        "b": 50,
        "all": 80,
    }


def test_only_labelled_photographs_count() -> None:
    (source, path), class_id = next(iter(class_ids_by_photograph().items()))
    pixels = Pixels(np.zeros((1, 1, 3), np.uint8))
    photographs = [
        Photograph("other", path + ".png", pixels, ""),
        Photograph(source, path + ".png", pixels, ""),
    ]
    logits = np.arange(6, dtype=np.float32).reshape(2, 3)
    nothing = np.zeros((2, 1), np.float32)

    found = labelled(photographs, Outputs(logits, nothing, nothing, np.zeros(2, np.int64)))

    assert found.class_ids.tolist() == [class_id]
    assert found.logits.tolist() == [[3.0, 4.0, 5.0]]
