"""The demo's sealed graph: the backbone from the checkpoint, the gate from the calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.models import exact
from tidegate.models.demo import efficientnet_lite
from tidegate.models.demo.spec import PREPROCESS
from tidegate.models.graphs.last_layer import LastLayer
from tidegate.models.sealing.gate_head import GateHead
from tidegate.models.sealing.seal import seal

Weights = Mapping[str, NDArray[Any]]


def gate_head(weights: Weights, centre: NDArray[np.floating], shrinkage: float) -> GateHead:
    """Return the head whose class means and covariance are the classifier's weight directions.

    With u = (f − centre)/|f − centre|, v_c = W_c/|W_c| and Σ the covariance of all v_c, shrunk by
    `shrinkage` towards a sphere of the same trace: d² = min_c (u − v_c)ᵀ Σ⁻¹ (u − v_c). It needs no
    features of the training images, which are not available: near the end of training, class
    means and classifier weights have the same directions (neural collapse, Papyan et al. 2020).
    Σ⁻¹ reduces the weight of directions that many classes share, in which images without an
    object lie.
    """
    directions = exact.unit_rows(weights["_fc.weight"])
    apart = directions - exact.column_sums(directions) / len(directions)
    covariance = exact.product(apart.T, apart) / len(directions)
    width = len(covariance)
    sphere = math.fsum(covariance.diagonal()) / width  # variance per dimension
    shrunk = (1 - shrinkage) * covariance / sphere + shrinkage * np.eye(width)
    factor = exact.cholesky(shrunk)  # Σ = L·Lᵀ, so |x·L⁻ᵀ|² = xᵀΣ⁻¹x
    whitened = exact.times_inverse_transpose(np.vstack([np.eye(width), directions]), factor)
    return GateHead(
        energy_temperature=1.0,
        centre=np.asarray(centre, np.float32),
        whitening=whitened[:width],
        means=whitened[width:],
        normalise=True,
    )


def last_layer(weights: Weights) -> LastLayer:
    """Return the classifier's linear layer."""
    return LastLayer(weights["_fc.weight"], weights["_fc.bias"])


def sealed_graph(weights: Weights, head: GateHead) -> bytes:
    """Return model.onnx: uint8 pixels [batch, 224, 224, 3] → the sealed outputs."""
    return seal(efficientnet_lite.build(weights), PREPROCESS, head)
