"""A backbone in int8: ONNX Runtime's QDQ format, made for its AVX-512-VNNI and AVX-VNNI kernels.

Weights are int8, symmetric, per channel; activations uint8, which those kernels multiply natively
(int8 ones took 1.7 times as long). On a CPU without such a kernel, whose sums of two products end
at 16 bits, weights get 7 bits, which never reach that; the other way round, a bundle with 8 bits is
refused there by its golden probes. Ranges are the minimum and maximum over the calibration images:
on EfficientNet-Lite0 entropy gave the same, the 99.99th percentile 1.5 dB better logits and the
99.9th 5 dB worse ones, and what cuts just enough depends on the network. What stays float32 is
chosen by measurement, see `_kept_float`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, version_converter
from onnxruntime.quantization import (
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    TensorsData,
    quant_pre_process,
)

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.names import OUTPUTS
from tidegate.models.precision.activations import Activations, observe
from tidegate.models.precision.bias_correction import correct_biases, layers_with_bias
from tidegate.models.progress import follow

RunsOn = Literal["cpu", "tensorrt"]
_OLDEST_OPSET = 13  # per-channel DequantizeLinear
# What has an int8 kernel, and what passes int8 on. Softmax and normalisation stay float.
_OPS = [
    *("Add", "AveragePool", "Clip", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool"),
    *("MatMul", "MaxPool", "Mul", "Relu", "Reshape", "Sigmoid", "Squeeze", "Transpose"),
]
_TAIL = {
    *("AveragePool", "Flatten", "GlobalAveragePool", "Identity", "ReduceMean", "Reshape"),
    "Squeeze",
}


def to_int8(
    backbone: onnx.ModelProto, batches: Iterable[NDArray[np.float32]], runs_on: RunsOn = "cpu"
) -> onnx.ModelProto:
    """Return `backbone` in int8, calibrated on `batches`: float32 [b, 3, H, W], normalised.

    TensorRT takes int8 activations with a zero point of 0, and biases in float32, only. A CPU runs
    such a graph too, slower; TensorRT none that is made for CPUs.

    Inputs and outputs stay float32, the batch dynamic; the same inputs give the same bytes, but for
    the bits of the weights, which the CPU decides. Memory is that of one batch. Raises BuildRefused
    without images or when nothing could be quantised.
    """
    floats = _prepared(backbone)
    layers = layers_with_bias(floats.graph)
    means_of = list(dict.fromkeys(layer.input[0] for layer in layers))
    seen = observe(floats, follow(batches, "Calibrating int8"), means_of)
    quantised = _quantised(floats, seen, runs_on)
    if not any(node.op_type == "QuantizeLinear" for node in quantised.graph.node):
        raise BuildRefused("Nothing in this backbone has an int8 kernel: use fp16 or fp32.")
    correct_biases(quantised, floats, seen.means)
    for name in OUTPUTS[:2]:
        _keep_exact(quantised.graph, name)
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def sums_saturate() -> bool:
    """Tell whether this CPU's int8 kernel cuts sums off: those without VNNI do, at 16 bits."""
    pixels, weights, depth = 255, 127, 64
    column = np.full((depth, 16), weights, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["sums"])],
        "sums",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, (1, depth))],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, (1, 16))],
        [numpy_helper.from_array(column, "b")],
    )
    opset = helper.make_opsetid("", _OLDEST_OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"a": np.full((1, depth), pixels, np.uint8)})
    return bool((sums != pixels * weights * depth).any())


def _prepared(backbone: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with batch-norms and constants folded, named nodes, a bias in every Conv."""
    model = onnx.ModelProto()
    model.CopyFrom(backbone)
    opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset < _OLDEST_OPSET:
        model = version_converter.convert_version(model, _OLDEST_OPSET)
    with tempfile.TemporaryDirectory(prefix="tidegate-int8-") as folder:
        # By path: given the graph itself, ONNX Runtime 1.32 moves the caller's weights away.
        given, made = Path(folder, "given.onnx"), Path(folder, "made.onnx")
        onnx.save(model, given)
        # Symbolic shapes would need sympy; ONNX's own inference knows the shapes of a classifier.
        quant_pre_process(given, made, skip_symbolic_shape=True)
        model = onnx.load(made)
    constants = {item.name: item for item in model.graph.initializer}
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
        if node.op_type == "Conv" and len(node.input) == 2 and node.input[1] in constants:
            zeros = np.zeros(constants[node.input[1]].dims[0], np.float32)
            bias = numpy_helper.from_array(zeros, f"{node.name}_zero_bias")
            model.graph.initializer.append(bias)
            node.input.append(bias.name)
    return model


def _quantised(floats: onnx.ModelProto, seen: Activations, runs_on: RunsOn) -> onnx.ModelProto:
    on_gpu = runs_on == "tensorrt"
    quantizer = QDQQuantizer(
        floats,
        per_channel=True,
        reduce_range=not on_gpu and sums_saturate(),
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if on_gpu else QuantType.QUInt8,
        tensors_range=_as_tensors_data(seen.ranges),
        nodes_to_quantize=[],
        nodes_to_exclude=_kept_float(floats.graph),
        op_types_to_quantize=_OPS,
        # Two activations multiplied, as in attention, have no kernel worth the rounding.
        extra_options={
            "WeightSymmetric": True,
            "MatMulConstBOnly": True,
            "ActivationSymmetric": on_gpu,
            "QuantizeBias": not on_gpu,
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    model: onnx.ModelProto = quantizer.model.model
    return model


def _as_tensors_data(ranges: Mapping[str, tuple[np.float32, np.float32]]) -> TensorsData:
    return TensorsData(CalibrationMethod.MinMax, dict(ranges))


def _kept_float(graph: onnx.GraphProto) -> list[str]:
    """Return the nodes that cost accuracy in int8 and give no time back.

    The pooling before `features`, so that the gate sees averages that were not rounded again; and
    a stem followed by a depthwise convolution (MobileNet's and EfficientNet's beginning) with it:
    few products per byte, and their rounding passes through the whole network.
    """
    nodes = list(graph.node)
    convolutions = [index for index, node in enumerate(nodes) if node.op_type == "Conv"]
    constants = {item.name: item for item in graph.initializer}
    kept = []
    if len(convolutions) > 2:
        weights = constants.get(nodes[convolutions[1]].input[1])
        if weights is not None and weights.dims[1] == 1:
            kept = [node.name for node in nodes[: convolutions[2]]]
    makers = {name: node for node in nodes for name in node.output}
    node = makers.get("features")
    while node is not None and node.op_type in _TAIL:
        kept.append(node.name)
        node = makers.get(node.input[0])
    return kept


def _keep_exact(graph: onnx.GraphProto, output: str) -> None:
    """Let `output` be the float32 value itself where it was rounded to int8 on its way out."""
    makers = {name: node for node in graph.node for name in node.output}
    back = makers[output]
    if back.op_type != "DequantizeLinear":
        return
    exact, rounded = makers[back.input[0]].input[0], output + "_rounded"
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == output:
                    names[index] = rounded  # readers inside keep the rounded value: int8 kernels
                elif name == exact:
                    names[index] = output
    _drop_unread(graph, rounded)


def _drop_unread(graph: onnx.GraphProto, name: str) -> None:
    """Remove the node that makes `name`, and what only it read, when nobody reads `name`."""
    if any(name in node.input for node in graph.node) or any(v.name == name for v in graph.output):
        return
    maker = next((node for node in graph.node if name in node.output), None)
    if maker is not None and maker.op_type in ("QuantizeLinear", "DequantizeLinear"):
        graph.node.remove(maker)
        _drop_unread(graph, maker.input[0])
