"""Histograms of the gate's scores for the test split and each OOD set, for the card's plots."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tidegate.models.evaluation.evaluate import Scored
from tidegate.service.bundle.manifest import Histogram

TEST = "test split"  # the test split's name among the sets
_BINS = 40


def score_histograms(test: Scored, ood: Mapping[str, Scored]) -> dict[str, dict[str, Histogram]]:
    """Return score → set → histogram for CardData.score_histograms; TEST is one of the sets.

    A score's histograms share their edges: equal steps over the middle 98 % of each set, so that
    the tail of a distant set does not squeeze everything else into one bin. A constant score is
    left out.
    """
    found = {}
    for score in test.scores:
        values = {name: scored.scores[score] for name, scored in {**ood, TEST: test}.items()}
        limits = [np.quantile(of_set, (0.01, 0.99)) for of_set in values.values()]
        low, high = min(at[0] for at in limits), max(at[1] for at in limits)
        edges = np.unique(np.linspace(low, high, _BINS - 1))
        if len(edges) > 1:
            found[score] = {name: _histogram(of_set, edges) for name, of_set in values.items()}
    return found


def _histogram(values: NDArray[np.float64], edges: NDArray[np.float64]) -> Histogram:
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))
