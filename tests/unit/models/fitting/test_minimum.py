"""The documented minimum of calibration images is sufficient, whatever the scores are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tidegate.models.data.folders import cut
from tidegate.models.fitting.conformal import (
    FOLD_SHARE,
    PARTS,
    GateTarget,
    Scores,
    calibrate,
)

pytestmark = pytest.mark.lengthy

DRAWS = 20_000
NAMES = ("energy", "mahalanobis", "entropy")
Float64 = NDArray[np.float64]


def drawn(n: int, classes: int, digits: int | None, rng: np.random.Generator) -> Scores:
    """Dependent, skewed scores; rounded to `digits`, they are tied."""
    shared = rng.normal(size=n)
    energy, distance = np.exp(shared + rng.normal(size=n)), 0.5 * shared + rng.normal(size=n)
    values = dict(zip(NAMES, (energy, distance, -energy), strict=True))
    if digits is not None:
        values = {name: np.round(value, digits) for name, value in values.items()}
    return Scores(values, rng.integers(0, classes, n))


def least(target: GateTarget) -> int:
    """The number that the message of a refused build asks for."""
    return math.ceil(target.least_images / FOLD_SHARE) + 1


@pytest.mark.parametrize("digits", [None, 0], ids=["exact", "tied"])
@pytest.mark.parametrize(
    ("target", "classes", "times"),
    [
        (GateTarget(), 1, 1),
        (GateTarget(0.05, 0.1), 1, 1),
        (GateTarget(0.05, 0.1, delta=0.1), 1, 1),
        (GateTarget(0.2, 0.3), 4, 10),
    ],
    ids=["default", "alpha .05", "pac", "classes of their own"],
)
def test_no_build_with_the_least_images_is_refused(
    target: GateTarget, classes: int, times: int, digits: int | None
) -> None:
    rng = np.random.default_rng(0)
    n = times * least(target)
    bounds = cut(n, PARTS)
    sizes = [len(range(n)[bounds[name]]) for name in ("fold_a", "fold_b")]
    own = 0
    for _ in range(DRAWS // 8):
        fold_a, fold_b = (drawn(size, classes, digits, rng) for size in sizes)
        gate = calibrate(fold_a, fold_b, classes, target, NAMES)  # raises if it is refused
        folds = [gate.fold_b, *gate.own_folds_b.values()]
        own += len(gate.own_folds_b)

        assert all(fold.p_by_rank[0] <= target.alpha_reject for fold in folds if len(fold.combined))
        assert gate.judge([math.inf] * 3, 0).decision == "reject"
        assert gate.judge([1e9] * 3, 0).decision == "reject"

    assert bool(own) == (classes > 1)
