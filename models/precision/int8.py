"""Convert a backbone to int8 in ONNX Runtime's QDQ format, for AVX-512-VNNI and AVX-VNNI kernels.

Weights are int8, symmetric, per channel. Activations are uint8, which those kernels multiply
natively (int8 activations took 1.7 times as long). Kernels without VNNI saturate sums of two
products at 16 bits; on such a CPU, weights get 7 bits, with which sums cannot saturate. A bundle
with 8 bits fails its golden probes there. Ranges are the minimum and maximum over the calibration
images. On EfficientNet-Lite0, entropy gave the same logits, the 99.99th percentile 1.5 dB better
and the 99.9th 5 dB worse ones; the best percentile depends on the network. `_kept_float` names the
nodes that stay float32, which were chosen by measurement.
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
from tidegate.models.graphs.engine_mark import mark_for_openvino
from tidegate.models.graphs.names import OUTPUTS
from tidegate.models.precision.activations import Activations, observe
from tidegate.models.precision.bias_correction import correct_biases, layers_with_bias
from tidegate.models.progress import follow

RunsOn = Literal["cpu", "openvino", "tensorrt"]
_OLDEST_OPSET = 13  # per-channel DequantizeLinear
# Operators with an int8 kernel or that pass int8 on. Softmax and normalisation stay float.
_OPS = [
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Conv",
    "Flatten",
    "Gemm",
    "GlobalAveragePool",
    "MatMul",
    "MaxPool",
    "Mul",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Squeeze",
    "Transpose",
]
_TAIL = {
    "AveragePool",
    "Flatten",
    "GlobalAveragePool",
    "Identity",
    "ReduceMean",
    "Reshape",
    "Squeeze",
}


def to_int8(
    backbone: onnx.ModelProto, batches: Iterable[NDArray[np.float32]], runs_on: RunsOn = "cpu"
) -> onnx.ModelProto:
    """Return `backbone` in int8, calibrated on `batches`: float32 [b, 3, H, W], normalised.

    OpenVINO runs the operators of "cpu" in int8, too, but rounds differently: "openvino" only marks
    the graph, so that its bundle is fitted with OpenVINO and served by it. TensorRT requires int8
    activations with a zero point of 0, and biases in float32. A CPU runs such a graph too, more
    slowly; TensorRT does not run a graph made for CPUs.

    Inputs and outputs stay float32, and the batch stays dynamic. The same inputs give the same
    bytes, except that the CPU decides the bits of the weights. Memory is that of one batch. Raises
    BuildRefused if there are no images, or nothing can be quantised.
    """
    return quantise(backbone, measure(backbone, batches), runs_on)


def measure(backbone: onnx.ModelProto, batches: Iterable[NDArray[np.float32]]) -> Activations:
    """Return what `quantise` needs to know of the activations. Raises BuildRefused."""
    floats = _prepared(backbone)
    layers = layers_with_bias(floats.graph)
    means_of = list(dict.fromkeys(layer.input[0] for layer in layers))
    return observe(floats, follow(batches, "Calibrating int8"), means_of)


def quantise(
    backbone: onnx.ModelProto, seen: Activations, runs_on: RunsOn = "cpu"
) -> onnx.ModelProto:
    """Return `backbone` in int8, with activations as `measure` has seen them.

    Raises BuildRefused if nothing can be quantised.
    """
    floats = _prepared(backbone)
    quantised = _quantised(floats, seen, runs_on)
    if not any(node.op_type == "QuantizeLinear" for node in quantised.graph.node):
        raise BuildRefused("No operator of this backbone has an int8 kernel: use fp16 or fp32.")
    correct_biases(quantised, floats, seen.means)
    for name in OUTPUTS[:2]:
        _keep_exact(quantised.graph, name)
    if runs_on == "openvino":
        mark_for_openvino(quantised)
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def sums_saturate() -> bool:
    """Return whether this CPU's int8 kernel saturates sums at 16 bits, as those without VNNI do."""
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
    """Return a copy with folded batch-norms and constants, named nodes, a bias in every Conv."""
    model = onnx.ModelProto()
    model.CopyFrom(backbone)
    opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset < _OLDEST_OPSET:
        model = version_converter.convert_version(model, _OLDEST_OPSET)
    with tempfile.TemporaryDirectory(prefix="tidegate-int8-") as folder:
        # By path: given the graph itself, ONNX Runtime 1.32 moves the caller's weights out of it.
        given, made = Path(folder, "given.onnx"), Path(folder, "made.onnx")
        onnx.save(model, given)
        # Symbolic shapes would need sympy; ONNX's own shape inference suffices for classifiers.
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
        # For products of two activations, as in attention, the int8 kernel is not worth the error.
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
    """Return the nodes for which int8 costs accuracy and saves no time.

    These are the pooling before `features`, so that the gate's averages are not rounded again, and
    a stem together with a depthwise convolution that follows it (as in MobileNet and EfficientNet):
    few products per byte, and their error passes through the whole network.
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
    """Make `output` the float32 value if it was rounded to int8 just before the output."""
    makers = {name: node for node in graph.node for name in node.output}
    back = makers[output]
    if back.op_type != "DequantizeLinear":
        return
    exact, rounded = makers[back.input[0]].input[0], output + "_rounded"
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == output:
                    names[index] = rounded  # inner readers keep the rounded value, for int8 kernels
                elif name == exact:
                    names[index] = output
    _drop_unread(graph, rounded)


def _drop_unread(graph: onnx.GraphProto, name: str) -> None:
    """Remove the node that makes `name`, and its otherwise unused inputs, if `name` is unused."""
    if any(name in node.input for node in graph.node) or any(v.name == name for v in graph.output):
        return
    maker = next((node for node in graph.node if name in node.output), None)
    if maker is not None and maker.op_type in ("QuantizeLinear", "DequantizeLinear"):
        graph.node.remove(maker)
        _drop_unread(graph, maker.input[0])
