"""Read the last linear layer of a backbone, by running the part between features and logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.utils import Extractor

from tidegate.models.graphs.session import quiet_session

_LINEAR = 1e-4  # largest accepted difference from a linear layer, relative to the largest logit


@dataclass(frozen=True, slots=True)
class LastLayer:
    """logits = features · weightsᵀ + bias."""

    weights: NDArray[np.floating]  # [classes, D]
    bias: NDArray[np.floating]  # [classes]


def last_layer(backbone: onnx.ModelProto) -> LastLayer | None:
    """Return the layer from `features` to `logits`, or None if it is not a single linear one."""
    try:
        part = Extractor(backbone).extract_model(["features"], ["logits"])
        session = quiet_session(part.SerializeToString())
    except Exception:  # noqa: BLE001 - onnx and ONNX Runtime raise anything for an invalid part
        return None
    width = int(session.get_inputs()[0].shape[1])

    def logits(features: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(session.run(["logits"], {"features": features})[0])

    bias = logits(np.zeros((1, width), np.float32))[0]
    weights = (logits(np.eye(width, dtype=np.float32)) - bias).T
    trial = np.random.default_rng(0).normal(scale=3, size=(8, width)).astype(np.float32)
    expected = logits(trial)
    largest = np.max(np.abs(trial @ weights.T + bias - expected))
    if not largest <= _LINEAR * np.max(np.abs(expected)):
        return None
    return LastLayer(np.ascontiguousarray(weights), bias)
