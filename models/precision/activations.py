"""Measure a graph's activations: the range of every tensor, and channel means of some.

The reductions run inside the graph, so memory is that of one batch for any number of batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.session import quiet_session

_LOW, _HIGH, _MEAN, _AXES = "observe/low/", "observe/high/", "observe/mean/", "observe/axes/"


@dataclass(frozen=True, slots=True)
class Activations:
    """The activations over `images` images."""

    images: int
    ranges: Mapping[str, tuple[np.float32, np.float32]]  # of every float32 tensor except constants
    means: Mapping[str, NDArray[np.float64]]  # [channels], axis 1, of the requested tensors


def observe(
    model: onnx.ModelProto, batches: Iterable[NDArray[np.float32]], means_of: Sequence[str] = ()
) -> Activations:
    """Run `model` over `batches` of its input and return its activations.

    Uses one thread, so that the same images give the same bits on any number of cores.
    Raises BuildRefused if there are no images, or a tensor is not finite.
    """
    work = onnx.shape_inference.infer_shapes(model)
    names = _float_tensors(work.graph)
    session = quiet_session(_with_reductions(work, names, means_of).SerializeToString())
    entry = session.get_inputs()[0].name
    outputs = [prefix + name for prefix in (_LOW, _HIGH) for name in names]
    outputs += [_MEAN + name for name in means_of]
    low = np.full(len(names), np.inf, np.float32)
    high = -low
    sums: list[NDArray[np.float64]] = []
    images = 0
    for batch in batches:
        values = session.run(outputs, {entry: batch})
        lows, highs, means = np.split(np.array(values, dtype=object), [len(names), 2 * len(names)])
        low = np.minimum(low, lows.astype(np.float32))
        high = np.maximum(high, highs.astype(np.float32))
        weighted = [len(batch) * mean.astype(np.float64) for mean in means]
        sums = [a + b for a, b in zip(sums, weighted, strict=True)] if sums else weighted
        images += len(batch)
    if images == 0:
        raise BuildRefused("No images to calibrate on: give at least one batch.")
    _check_finite(names, low, high)
    return Activations(
        images,
        {name: (a, b) for name, a, b in zip(names, low, high, strict=True)},
        {name: total / images for name, total in zip(means_of, sums, strict=True)},
    )


def _check_finite(
    names: Sequence[str], low: NDArray[np.float32], high: NDArray[np.float32]
) -> None:
    bad = ~(np.isfinite(low) & np.isfinite(high))  # minimum and maximum propagate NaN
    if bad.any():
        raise BuildRefused(
            f"The tensor {names[int(bad.argmax())]!r} is not finite on the calibration images: "
            "check the images' normalisation and the checkpoint."
        )


def _float_tensors(graph: onnx.GraphProto) -> list[str]:
    """Return the float32 tensors that nodes read or write, each once, in the graph's order."""
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    constants = {item.name for item in graph.initializer}
    seen = (name for node in graph.node for name in (*node.input, *node.output))
    return [
        name
        for name in dict.fromkeys(seen)
        if kinds.get(name) == TensorProto.FLOAT and name not in constants
    ]


def _with_reductions(
    model: onnx.ModelProto, names: Sequence[str], means_of: Sequence[str]
) -> onnx.ModelProto:
    graph = model.graph
    opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    for op, prefix in (("ReduceMin", _LOW), ("ReduceMax", _HIGH)):
        for name in names:
            graph.node.append(helper.make_node(op, [name], [prefix + name], keepdims=0))
            graph.output.append(_float_output(prefix + name))
    for name in means_of:
        axes = [0, *range(2, ranks[name])]
        node = helper.make_node("ReduceMean", [name], [_MEAN + name], keepdims=0)
        if opset < 18:  # from 18 on, the axes are an input
            node.attribute.append(helper.make_attribute("axes", axes))
        else:
            constant = numpy_helper.from_array(np.array(axes, np.int64), _AXES + name)
            graph.initializer.append(constant)
            node.input.append(constant.name)
        graph.node.append(node)
        graph.output.append(_float_output(_MEAN + name))
    return model


def _float_output(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
