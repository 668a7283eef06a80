"""Correct biases for the mean error of rounded weights in a quantised graph, at no run-time cost.

Rounding a layer's weights W to Ŵ shifts its output by (Ŵ − W)·x. The mean shift over images is
known, and is subtracted from the layer's bias (Nagel et al. 2019, section 4.2). It matters most in
depthwise convolutions, whose few weights do not average their errors out. The mean ignores zero
padding at the border.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Float64 = NDArray[np.float64]


def layers_with_bias(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the Conv and Gemm nodes of a float graph whose weights and bias are constants."""
    constants = {item.name for item in graph.initializer}
    return [
        node
        for node in graph.node
        if node.op_type in ("Conv", "Gemm")
        and len(node.input) == 3
        and constants.issuperset(node.input[1:])
    ]


def correct_biases(
    quantised: onnx.ModelProto, floats: onnx.ModelProto, means: Mapping[str, Float64]
) -> None:
    """Correct the biases of `quantised`, a QDQ graph made from `floats`, in place.

    Biases are int32, or float32 if they were not quantised. `means` has the channel means
    [channels] of each layer's input in `floats`, by the tensor's name.
    """
    graph = quantised.graph
    constants = {item.name: item for item in graph.initializer}
    before = {item.name: item for item in floats.graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    nodes = {node.name: node for node in graph.node}
    corrected: set[str] = set()
    for layer in layers_with_bias(floats.graph):
        _, kernel, offset = nodes[layer.name].input
        weights, bias = makers.get(kernel), makers.get(offset)
        stored = constants.get(bias.input[0] if bias is not None else offset)
        if not _is_constant(weights, constants) or stored is None or stored.name in corrected:
            continue
        error = _values(weights, constants) - numpy_helper.to_array(before[layer.input[1]])
        shift = _output_shift(layer, error, means[layer.input[0]])
        old = numpy_helper.to_array(stored)
        if bias is None:
            new = (old - shift).astype(np.float32)
        else:
            scale = numpy_helper.to_array(constants[bias.input[1]]).astype(np.float64)
            limits = np.iinfo(np.int32)
            levels = np.clip(old - np.rint(shift / scale), limits.min, limits.max)
            new = levels.astype(np.int32)
        stored.CopyFrom(numpy_helper.from_array(new, stored.name))
        corrected.add(stored.name)  # a bias that layers share is corrected once


def _is_constant(
    node: onnx.NodeProto | None, constants: Mapping[str, Any]
) -> TypeGuard[onnx.NodeProto]:
    return node is not None and node.op_type == "DequantizeLinear" and node.input[0] in constants


def _values(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> Float64:
    """Return the output of a DequantizeLinear of symmetric constants, in float64."""
    levels, scale = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
    axis = _attribute(node, "axis", 1)
    if scale.size > 1:
        scale = scale.reshape([-1 if k == axis else 1 for k in range(levels.ndim)])
    return np.asarray(levels * scale.astype(np.float64))


def _output_shift(layer: onnx.NodeProto, error: Float64, mean: Float64) -> Float64:
    """Return the mean shift [out] of the layer's output caused by `error` in its weights."""
    if layer.op_type == "Gemm":
        return np.asarray(error @ mean if _attribute(layer, "transB", 0) else mean @ error)
    groups = _attribute(layer, "group", 1)
    taps = error.reshape(*error.shape[:2], -1).sum(axis=2)  # [out, in/groups]
    taps = taps.reshape(groups, -1, taps.shape[1])
    return np.asarray(np.einsum("goi,gi->go", taps, mean.reshape(groups, -1)).ravel())


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), default)
