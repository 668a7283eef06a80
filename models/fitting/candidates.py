"""The scores among which a build chooses, in addition to energy and Mahalanobis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tidegate.models.data.rows import Float32
from tidegate.models.graphs.last_layer import LastLayer
from tidegate.models.sealing.gate_head import GateHead
from tidegate.models.sealing.score_heads import ClippedEnergy, Entropy, Linear, ScoreHead

DETECTOR = "drawn"  # the name of the detector's score
_CLIPPED = 0.1  # share of feature values above the ceiling (Sun et al. 2021)
_ROWS = 2000  # images for the ceiling, about


def ceiling_of(features: Float32) -> float:
    """Return the ceiling for clipped features, from those of in-distribution images, [n, D].

    Its exact value does not matter; two digits are the same with every release of NumPy.
    """
    some = features[:: max(1, len(features) // _ROWS)]
    return float(f"{np.quantile(some, 1 - _CLIPPED):.2g}")


def with_candidates(
    head: GateHead, ceiling: float, layer: LastLayer | None, detector: Linear
) -> GateHead:
    """Return `head` with every other score that this model allows.

    Without a last `layer` that is linear, features cannot be clipped.
    """
    others: dict[str, ScoreHead] = {"entropy": Entropy(len(head.means))}
    if layer is not None:
        others["clipped_energy"] = ClippedEnergy(ceiling, layer.weights, layer.bias)
    others[DETECTOR] = detector
    return replace(head, others=others)
