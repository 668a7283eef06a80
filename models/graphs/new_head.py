"""Give a backbone a new last layer."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tidegate.models.graphs.names import OUTPUTS
from tidegate.models.graphs.rewrite import float_value, keep_needed, tensor_names

_LOGITS, _FEATURES = OUTPUTS[:2]
_TINY = 1e-24  # the least square of a length, so that nothing is divided by 0


def encoder(backbone: onnx.ModelProto) -> onnx.ModelProto:
    """Return the part of a backbone that computes `features`, its only output."""
    model = onnx.ModelProto()
    model.CopyFrom(backbone)
    graph = model.graph
    for value in [value for value in graph.output if value.name != _FEATURES]:
        graph.output.remove(value)
    del graph.value_info[:]
    keep_needed(graph, list(graph.node), {_FEATURES})
    return model


def with_unit_features(backbone: onnx.ModelProto) -> onnx.ModelProto:
    """Return the encoder of `backbone` with features of length 1."""
    model = encoder(backbone)
    graph = model.graph
    taken = set(tensor_names(graph))
    raw, square, total, least, bounded, length, axes = (
        _free(f"unit.{part}", taken)
        for part in ("raw", "square", "total", "least", "bounded", "length", "axes")
    )
    for node in graph.node:
        node.input[:] = [raw if name == _FEATURES else name for name in node.input]
        node.output[:] = [raw if name == _FEATURES else name for name in node.output]
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), axes))
    graph.initializer.append(numpy_helper.from_array(np.array(_TINY, np.float32), least))
    graph.node.extend(
        (
            helper.make_node("Mul", [raw, raw], [square]),
            helper.make_node("ReduceSum", [square, axes], [total], keepdims=1),
            helper.make_node("Max", [total, least], [bounded]),
            helper.make_node("Sqrt", [bounded], [length]),
            helper.make_node("Div", [raw, length], [_FEATURES]),
        )
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def with_head(
    backbone: onnx.ModelProto, weights: NDArray[np.floating], bias: NDArray[np.floating]
) -> onnx.ModelProto:
    """Return `backbone` with logits = features · weightsᵀ + bias, in float32.

    `weights` is [classes, D], `bias` [classes]. An earlier last layer is left out.
    """
    model = encoder(backbone)
    graph = model.graph
    taken = set(tensor_names(graph))
    names = [_free(f"head.{part}", taken) for part in ("weight", "bias")]
    for name, value in zip(names, (weights, bias), strict=True):
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    graph.node.append(
        helper.make_node("Gemm", [_FEATURES, *names], [_LOGITS], name="head", transB=1)
    )
    graph.output.insert(0, float_value(_LOGITS, ["batch", len(bias)]))
    onnx.checker.check_model(model, full_check=True)
    return model


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
