"""Collect the nodes and constants that are added to a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tidegate.models.graphs.names import PREFIX


class Builder:
    """Nodes and initialisers under one prefix, in order."""

    def __init__(self, opset: int) -> None:
        self._opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = output if output.startswith(PREFIX) else PREFIX + output
        self._nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def step(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        return self.node(op, inputs, PREFIX + name, **attributes)

    def outputs(self, op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        name = PREFIX + "_".join(outputs).removeprefix(PREFIX)
        self._nodes.append(helper.make_node(op, inputs, outputs, name=name, **attributes))

    def first_output(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node with two outputs, the second of which is not used."""
        outputs = [PREFIX + name, PREFIX + name + "_unused"]
        self._nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], **attributes))
        return outputs[0]

    def constant(self, name: str, value: NDArray[Any] | float | list[int]) -> str:
        dtype = np.int64 if isinstance(value, list) else np.float32
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), PREFIX + name))
        return PREFIX + name

    def reduce(self, op: str, x: str, name: str, *, keep: bool = True, final: bool = False) -> str:
        """Reduce over axis 1; before opset 18, ReduceMax has its axes as an attribute."""
        output = name if final else PREFIX + name
        if op == "ReduceMax" and self._opset < 18:
            return self.node(op, [x], output, axes=[1], keepdims=int(keep))
        axes = PREFIX + "axis"
        if all(constant.name != axes for constant in self.constants):
            self.constant("axis", [1])
        return self.node(op, [x, axes], output, keepdims=int(keep))

    def take_nodes(self) -> list[onnx.NodeProto]:
        nodes, self._nodes = self._nodes, []
        return nodes


def kind_of(output: str) -> int:
    """Return the ONNX element type of one of the outputs."""
    return TensorProto.INT64 if output == "nearest_class" else TensorProto.FLOAT


def tensor(name: str, kind: int, shape: list[str | int | None]) -> onnx.ValueInfoProto:
    """Describe an input or output of a graph."""
    return helper.make_tensor_value_info(name, kind, shape)
