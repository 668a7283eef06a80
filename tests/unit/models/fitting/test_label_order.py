from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tidegate.models.errors import BuildRefused
from tidegate.models.fitting.label_order import check_label_order

LABELS = ("cat", "dog", "eel", "fox", "gnu")
Ids = NDArray[np.int64]


def recognised(right: float, each: int = 50, seed: int = 0) -> tuple[Ids, Ids]:
    """Return the classes of images, and what a network with this accuracy says."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(LABELS)), each)
    wrong = (truth + rng.integers(1, len(LABELS), truth.size)) % len(LABELS)
    return truth, np.where(rng.random(truth.size) < right, truth, wrong)


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ((1, 0, 2, 3, 4), "as 'dog'; .* of 'dog' are recognised as 'cat'"),
        ((0, 1, 4, 3, 2), "of 'eel' are recognised as 'gnu'"),
        ((1, 2, 0, 3, 4), "of 'dog' are recognised as 'eel'"),
    ],
)
def test_exchanged_labels_are_named(order: tuple[int, ...], told: str) -> None:
    truth, predicted = recognised(0.8)

    with pytest.raises(BuildRefused, match=rf"Labels look exchanged: .*{told}"):
        check_label_order(truth, np.array(order)[predicted], LABELS)


@pytest.mark.parametrize("right", [0.05, 0.2, 0.5, 0.9, 1.0])
def test_a_network_that_is_often_wrong_has_no_exchanged_labels(right: float) -> None:
    for seed in range(50):
        check_label_order(*recognised(right, each=12, seed=seed), LABELS)


def test_a_class_that_is_taken_for_another_which_is_right_is_no_exchange() -> None:
    truth, predicted = recognised(1.0)
    predicted[truth == 0] = 1

    check_label_order(truth, predicted, LABELS)


def test_few_images_prove_nothing() -> None:
    check_label_order(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]), ("cat", "dog"))
