"""The graph against the same network in float64 NumPy, written from the paper and unfolded."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tidegate.models.demo.efficientnet_lite import build
from tidegate.models.errors import BuildRefused

Float64 = NDArray[np.float64]
Weights = dict[str, NDArray[Any]]
STRIDES = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
# float32 through 50 layers against float64; a wrong pad or epsilon is off by 1e-2.
TOLERANCE = 1e-5


def same_padded(x: Float64, kernel: int, stride: int) -> Float64:
    """Pad [C, H, W] as TensorFlow's "SAME" does: an odd pixel is added at the end."""
    total = max((-(-x.shape[1] // stride) - 1) * stride + kernel - x.shape[1], 0)
    sides = (total // 2, total - total // 2)
    return np.pad(x, ((0, 0), sides, sides))


def convolved(x: Float64, kernel: Float64, stride: int, *, depthwise: bool = False) -> Float64:
    windows = sliding_window_view(same_padded(x, kernel.shape[2], stride), kernel.shape[2:], (1, 2))
    windows = windows[:, ::stride, ::stride]
    if depthwise:
        return np.asarray(np.einsum("chwij,cij->chw", windows, kernel[:, 0], optimize=True))
    return np.asarray(np.einsum("chwij,ocij->ohw", windows, kernel, optimize=True))


def network(weights: Weights, x: Float64) -> tuple[Float64, Float64]:
    """Return logits and features of one image [3, 224, 224]."""
    w = {name: np.asarray(array, np.float64) for name, array in weights.items()}

    def normed(y: Float64, name: str) -> Float64:
        column = {part: w[f"{name}.{part}"][:, None, None] for part in PARTS}
        unit = (y - column["running_mean"]) / np.sqrt(column["running_var"] + 1e-3)
        return unit * column["weight"] + column["bias"]

    def relu6(y: Float64) -> Float64:
        return np.clip(y, 0, 6)

    x = relu6(normed(convolved(x, w["_conv_stem.weight"], 2), "_bn0"))
    for index, stride in enumerate(STRIDES):
        block, y = f"_blocks.{index}.", x
        if index > 0:
            y = relu6(normed(convolved(y, w[block + "_expand_conv.weight"], 1), block + "_bn0"))
        depthwise = convolved(y, w[block + "_depthwise_conv.weight"], stride, depthwise=True)
        y = relu6(normed(depthwise, block + "_bn1"))
        y = normed(convolved(y, w[block + "_project_conv.weight"], 1), block + "_bn2")
        x = x + y if stride == 1 and x.shape == y.shape else y
    features = relu6(normed(convolved(x, w["_conv_head.weight"], 1), "_bn1")).mean(axis=(1, 2))
    return w["_fc.weight"] @ features + w["_fc.bias"], features


PARTS = ("weight", "bias", "running_mean", "running_var")


def test_the_graph_is_the_network(weights: Weights) -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (3, 224, 224)).astype(np.float32)
    session = ort.InferenceSession(
        build(weights).SerializeToString(), providers=["CPUExecutionProvider"]
    )

    logits, features = session.run(["logits", "features"], {"input": image[None]})

    for got, expected in zip(
        (logits[0], features[0]), network(weights, image.astype(np.float64)), strict=True
    ):
        assert np.max(np.abs(got - expected)) <= TOLERANCE * np.max(np.abs(expected))


def test_another_networks_weights_are_refused() -> None:
    with pytest.raises(BuildRefused, match="not an EfficientNet-Lite0"):
        build({"conv1.weight": np.zeros((64, 3, 7, 7))})
