"""The range of flagged images takes into account that the calibration images are few, too."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from tidegate.models.evaluation.expected_share import ExpectedShares, expected_share
from tidegate.models.fitting.conformal import pac_p_values
from tidegate.service.ood.conformal import TailedFold
from tidegate.service.ood.gates import FinalFold, Gate

ALPHA = 0.05


def gate(*sizes: int, delta: float | None = None) -> Gate:
    """A gate whose classes 0, 1, … have folds of the sizes but the first, which is shared."""
    folds = []
    for n in sizes:
        fold = FinalFold.marginal(np.arange(n, dtype=np.float64))
        folds.append(fold if delta is None else FinalFold(fold.combined, pac_p_values(n, delta)))
    fold_a = TailedFold.of(np.arange(10.0))
    return Gate({"energy": fold_a}, ("energy",), folds[0], 0.01, ALPHA, dict(enumerate(folds[1:])))


@pytest.mark.lengthy
@pytest.mark.parametrize("sizes", [(383,), (150, 300, 120)])
def test_19_of_20_draws_of_calibration_and_test_images_are_in_the_range(
    sizes: tuple[int, ...],
) -> None:
    rng, images = np.random.default_rng(0), 957
    shared = gate(*sizes)
    predicted = rng.integers(0, 4, images)
    expected = expected_share(shared, predicted, 0.0, ALPHA)

    def flagged() -> float:
        total = 0
        for place, n in enumerate(sizes, start=-1):
            own = predicted == place if place >= 0 else ~np.isin(predicted, range(len(sizes) - 1))
            fold = FinalFold.marginal(np.sort(rng.normal(size=n)))
            total += int((fold.p_values(rng.normal(size=int(own.sum()))) <= ALPHA).sum())
        return total / images

    inside = [expected.low <= flagged() <= expected.high for _ in range(2000)]
    assert 0.94 <= np.mean(inside) <= 0.98


def test_the_range_is_wider_than_that_of_the_test_images_alone() -> None:
    images = 957

    expected = expected_share(gate(383), np.zeros(images, np.int64), 0.0, ALPHA)

    low, high = binom.interval(0.95, images, ALPHA)
    assert expected.low < low / images - 0.005
    assert expected.high > high / images + 0.005


def test_with_a_large_calibration_only_the_test_images_vary() -> None:
    images = 400

    expected = expected_share(gate(200_000), np.zeros(images, np.int64), 0.0, ALPHA)

    found = (expected.low * images, expected.high * images)
    assert found == pytest.approx(binom.interval(0.95, images, ALPHA))


def test_rejected_and_reviewed_images_have_ranges_of_their_own() -> None:
    found = ExpectedShares.of(gate(999), np.zeros(100_000, np.int64))

    for share, alpha in ((found.rejected, 0.01), (found.reviewed, 0.04), (found.flagged, 0.05)):
        assert share.low < alpha < share.high


def test_a_pac_gate_is_expected_to_flag_fewer_than_alpha() -> None:
    found = expected_share(gate(600, delta=0.05), np.zeros(10_000, np.int64), 0.0, ALPHA)

    assert found.high == pytest.approx(ALPHA, abs=0.005)
    assert found.low < 0.03


def test_a_fold_that_is_too_small_for_alpha_flags_nothing() -> None:
    found = expected_share(gate(10), np.zeros(50, np.int64), 0.0, ALPHA)

    assert (found.low, found.high) == (0.0, 0.0)
