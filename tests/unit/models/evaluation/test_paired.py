"""Two classifiers on the same images."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.models.evaluation.paired import Paired


def test_the_counts_are_of_images_that_one_alone_recognises() -> None:
    first = np.array([True, True, True, False, False])
    second = np.array([True, False, False, True, False])

    found = Paired.of(first, second)

    assert (found.only_first, found.only_second, found.images) == (2, 1, 5)
    assert found.difference == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("counts", "p"),
    [((0, 0), 1.0), ((5, 5), 1.0), ((0, 6), 2 * 0.5**6), ((1, 8), 2 * (1 + 9) * 0.5**9)],
)
def test_the_p_value_is_that_of_a_fair_coin(counts: tuple[int, int], p: float) -> None:
    assert Paired(*counts, 100).p_value == pytest.approx(p)


def test_the_interval_covers_the_difference_in_95_of_100_samples() -> None:
    rng = np.random.default_rng(0)
    cells, n = np.array([0.03, 0.01, 0.96]), 1000
    drawn = rng.multinomial(n, cells, 2000)

    covered = [
        low <= 0.02 <= high
        for a, b, _ in drawn.tolist()
        for low, high in [Paired(a, b, n).interval]
    ]

    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)
