"""How well a score separates in-distribution from OOD images: AUROC and two FPR95s."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


def auroc(inside: Float64, outside: Float64) -> float:
    """Return the probability that an OOD score exceeds an in-distribution one; ties count half."""
    ordered = np.sort(inside)
    below = np.searchsorted(ordered, outside, side="left")
    up_to = np.searchsorted(ordered, outside, side="right")
    return float(np.mean((below + up_to) / 2) / len(inside))


def fpr95_keeping_inside(inside: Float64, outside: Float64) -> float:
    """Return the share of OOD images accepted if 95 % of in-distribution images are."""
    return float(np.mean(outside <= np.quantile(inside, 0.95, method="higher")))


def fpr95_catching_outside(inside: Float64, outside: Float64) -> float:
    """Return the share of in-distribution images rejected if 95 % of OOD images are."""
    return float(np.mean(inside >= np.quantile(outside, 0.05, method="lower")))
