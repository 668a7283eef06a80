"""Build EfficientNet-Lite0, 1 and 2 as ONNX graphs from a checkpoint's arrays, without torch.

The networks are those of Tan & Le 2019 without squeeze-and-excitation, with ReLU6 instead of swish,
and with a stem and head of fixed width (tensorflow/tpu, efficientnet/lite). They keep TensorFlow's
conventions: "SAME" padding, which pads the end more than the start, and batch-norm epsilon 1e-3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tidegate.models.errors import BuildRefused

OPSET = 17
IR_VERSION = 9
BATCH_NORM_EPSILON = 1e-3
STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))  # (blocks, stride of the first)
# name → (input size, depth); depth scales the blocks of all stages but the first and the last
VARIANTS = {"lite0": (224, 1.0), "lite1": (240, 1.1), "lite2": (260, 1.2)}
Weights = Mapping[str, NDArray[Any]]


def build(weights: Weights, variant: str = "lite0") -> onnx.ModelProto:
    """Return the graph: `input` float32 [batch, 3, S, S] → `logits` [batch, 1000], `features`.

    S is the variant's size; `features` [batch, 1280] is the pooled last activation; batch-norms are
    folded. Raises BuildRefused if `weights` are not those of this network.
    """
    size, depth = VARIANTS[variant]
    graph = _Graph(weights, size)
    try:
        x = graph.conv("input", "_conv_stem", "_bn0", stride=2)
        for index, stride in enumerate(_block_strides(depth)):
            x = _block(graph, x, f"_blocks.{index}.", stride)
        x = graph.conv(x, "_conv_head", "_bn1")
        pooled = graph.node("GlobalAveragePool", [x], "pooled")
        features = graph.node("Flatten", [pooled], "features", axis=1)
        names = [graph.constant("_fc.weight"), graph.constant("_fc.bias")]
        graph.node("Gemm", [features, *names], "logits", transB=1)
    except KeyError as error:
        raise BuildRefused(
            f"The checkpoint lacks {error}: it is not an EfficientNet-{variant.capitalize()}."
        ) from error
    return graph.model()


def _block_strides(depth: float) -> list[int]:
    last = len(STAGES) - 1
    return [
        stride if repeat == 0 else 1
        for stage, (blocks, stride) in enumerate(STAGES)
        for repeat in range(blocks if stage in (0, last) else math.ceil(depth * blocks))
    ]


def _block(graph: _Graph, x: str, prefix: str, stride: int) -> str:
    """Add one inverted bottleneck: expand 1×1, depthwise, project 1×1, and the shortcut."""
    y = x
    if prefix + "_expand_conv.weight" in graph.weights:
        y = graph.conv(y, prefix + "_expand_conv", prefix + "_bn0")
    y = graph.conv(y, prefix + "_depthwise_conv", prefix + "_bn1", stride=stride, depthwise=True)
    y = graph.conv(y, prefix + "_project_conv", prefix + "_bn2", activate=False)
    if stride == 1 and graph.channels[x] == graph.channels[y]:
        channels = graph.channels[y]
        y = graph.node("Add", [y, x], prefix + "sum")
        graph.channels[y] = channels
    return y


class _Graph:
    """Nodes and initialisers under construction; tracks the image size for the padding."""

    def __init__(self, weights: Weights, size: int) -> None:
        self._size = size
        self.weights = weights
        self.channels: dict[str, int] = {"input": 3}
        self._side = size
        self._nodes: list[onnx.NodeProto] = []
        self._constants = [
            numpy_helper.from_array(np.array(0, np.float32), "zero"),
            numpy_helper.from_array(np.array(6, np.float32), "six"),
        ]

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any] | None = None) -> str:
        array = self.weights[name] if value is None else value
        self._constants.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def conv(
        self,
        x: str,
        name: str,
        norm: str,
        *,
        stride: int = 1,
        depthwise: bool = False,
        activate: bool = True,
    ) -> str:
        """Add a convolution with its batch-norm folded in (in float64) and an optional ReLU6."""
        kernel = np.asarray(self.weights[name + ".weight"], np.float64)  # [out, in/groups, k, k]
        gamma, beta, mean, variance = (
            np.asarray(self.weights[f"{norm}.{part}"], np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        inputs = [
            x,
            self.constant(name + ".weight", kernel * gain[:, None, None, None]),
            self.constant(name + ".bias", beta - mean * gain),
        ]
        y = self.node(
            "Conv",
            inputs,
            name,
            kernel_shape=list(kernel.shape[2:]),
            strides=[stride, stride],
            pads=self._same_pads(kernel.shape[2], stride),
            group=kernel.shape[0] if depthwise else 1,
        )
        if activate:
            y = self.node("Clip", [y, "zero", "six"], name + ".relu6")
        self.channels[y] = kernel.shape[0]
        return y

    def _same_pads(self, kernel: int, stride: int) -> list[int]:
        """Return TensorFlow's "SAME" padding [top, left, bottom, right], and update the size."""
        out = -(-self._side // stride)
        total = max((out - 1) * stride + kernel - self._side, 0)
        self._side = out
        before = total // 2
        return [before, before, total - before, total - before]

    def model(self) -> onnx.ModelProto:
        classes, width = self.weights["_fc.weight"].shape
        floats = TensorProto.FLOAT
        graph = helper.make_graph(
            self._nodes,
            "efficientnet-lite",
            [helper.make_tensor_value_info("input", floats, ["batch", 3, self._size, self._size])],
            [
                helper.make_tensor_value_info("logits", floats, ["batch", classes]),
                helper.make_tensor_value_info("features", floats, ["batch", width]),
            ],
            self._constants,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="tidegate")
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        return model
