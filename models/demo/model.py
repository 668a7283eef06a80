"""The demo's sealed graph: the backbone from the checkpoint, the gate from the calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tidegate.models import exact
from tidegate.models.demo import efficientnet_lite
from tidegate.models.demo.spec import PREPROCESS
from tidegate.models.fitting.mahalanobis import Whitened, shrunk
from tidegate.models.graphs.last_layer import LastLayer
from tidegate.models.parity.preprocessing import normalised
from tidegate.models.precision.activations import Activations
from tidegate.models.precision.bf16 import to_bf16
from tidegate.models.precision.int8 import measure, quantise
from tidegate.models.sealing.gate_head import GateHead
from tidegate.models.sealing.seal import seal
from tidegate.service.bundle.manifest import Precision
from tidegate.service.types import Pixels

Weights = Mapping[str, NDArray[Any]]
_BATCH = 8


def gate_head(
    weights: Weights, centre: NDArray[np.floating], shrinkage: float, rank: int | None = None
) -> GateHead:
    """Return the head whose class means and covariance are the classifier's weight directions.

    With u = (f − centre)/|f − centre|, v_c = W_c/|W_c| and Σ the covariance of all v_c, shrunk by
    `shrinkage` towards a sphere of the same trace: d² = min_c (u − v_c)ᵀ Σ⁻¹ (u − v_c). It needs no
    features of the training images, which are not available: near the end of training, class
    means and classifier weights have the same directions (neural collapse, Papyan et al. 2020).
    Σ⁻¹ reduces the weight of directions that many classes share, in which images without an
    object lie. With a `rank`, Σ is that of the leading directions, and one variance for the rest.
    """
    directions = exact.unit_rows(weights["_fc.weight"])
    offset = exact.column_sums(directions) / len(directions)
    apart = directions - offset
    covariance = exact.product(apart.T, apart) / len(directions)
    sphere = math.fsum(covariance.diagonal()) / len(covariance)  # variance per dimension
    total = shrunk(covariance / sphere, shrinkage)
    basis = None if rank is None else exact.leading_subspace(total, rank)
    whitened = Whitened.of(apart, total, None, basis)
    return GateHead(
        energy_temperature=1.0,
        centre=np.asarray(centre, np.float32),
        whitening=whitened.whitening,
        means=whitened.means,
        normalise=True,
        offset=offset,
        basis=whitened.basis,
        residual=whitened.residual,
    )


def last_layer(weights: Weights) -> LastLayer:
    """Return the classifier's linear layer."""
    return LastLayer(weights["_fc.weight"], weights["_fc.bias"])


def network(
    weights: Weights, precision: Precision = "fp32", seen: Activations | None = None
) -> onnx.ModelProto:
    """Return the backbone in a precision; int8 needs the activations that were seen."""
    built = efficientnet_lite.build(weights)
    if precision == "int8" and seen is not None:
        return quantise(built, seen)
    return to_bf16(built) if precision == "bf16" else built


def activations(weights: Weights, photographs: list[Pixels]) -> Activations:
    """Return the activations of the network in fp32, for int8."""
    images = [normalised(pixels, PREPROCESS) for pixels in photographs]
    batches = [np.stack(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    return measure(efficientnet_lite.build(weights), batches)


def sealed_graph(backbone: onnx.ModelProto, head: GateHead) -> bytes:
    """Return model.onnx: uint8 pixels [batch, 224, 224, 3] → the sealed outputs."""
    return seal(backbone, PREPROCESS, head)
