"""Compose any backbone and a gate into the sealed graph: pixels in, numbers out.

The arithmetic of the gate head is that of `service.ood.scores`, in float32 and in the graph, so
that no engine and no host code can compute another score than the one that was calibrated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.errors import BuildRefused
from service.imaging.spec import PreprocessSpec

PREFIX = "tidegate/"
OUTPUTS = ("logits", "features", "energy", "mahalanobis", "nearest_class")
_RESERVED = {"pixels", "energy", "mahalanobis", "nearest_class"}
_OLDEST_OPSET = 13


@dataclass(frozen=True, slots=True)
class GateHead:
    """The fitted parameters of both scores, as `service.ood.scores` takes them."""

    energy_temperature: float
    centre: NDArray[np.floating]  # [D]
    whitening: NDArray[np.floating] | None  # [D, D']
    means: NDArray[np.floating]  # [classes, D'], in the whitened space
    normalise: bool


def seal(backbone: onnx.ModelProto, spec: PreprocessSpec, head: GateHead) -> bytes:
    """Return the sealed graph as file content; the same inputs give the same bytes.

    `backbone` takes float32 [batch, 3, H, W] and gives `logits` and `features`; the result takes
    `pixels` uint8 [batch, H, W, 3]. Raises BuildRefused when the parts do not fit together.
    """
    model = onnx.ModelProto()
    model.CopyFrom(backbone)
    entry, classes, width = _check(model, spec, head)
    builder = _Builder(_opset(model))
    _normalise(builder, spec, entry)
    before = builder.take_nodes()
    _energy(builder, head.energy_temperature)
    _mahalanobis(builder, head)
    after = builder.take_nodes()
    _replace(model.graph, before, after, builder.constants, (spec.output_size, classes, width))
    _strip(model)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


class _Builder:
    """Collects nodes and initialisers under one prefix."""

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

    def constant(self, name: str, value: NDArray[Any] | float | list[int]) -> str:
        dtype = np.int64 if isinstance(value, list) else np.float32
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), PREFIX + name))
        return PREFIX + name

    def reduce(self, op: str, x: str, name: str, *, keep: bool = True, final: bool = False) -> str:
        """Reduce over axis 1; ReduceMax takes its axes as an attribute before opset 18."""
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


def _normalise(b: _Builder, spec: PreprocessSpec, entry: str) -> None:
    """(pixel · scale − mean) / std as one product and one sum, constants made in float64."""
    std = np.asarray(spec.std, np.float64).reshape(1, 3, 1, 1)
    mean = np.asarray(spec.mean, np.float64).reshape(1, 3, 1, 1)
    # Cast comes first: TensorRT takes uint8 only at the door.
    x = b.step("Cast", ["pixels"], "floats", to=TensorProto.FLOAT)
    x = b.step("Transpose", [x], "planes", perm=[0, 3, 1, 2])
    x = b.step("Mul", [x, b.constant("gain", spec.scale / std)], "scaled")
    b.node("Add", [x, b.constant("bias", -mean / std)], entry)


def _energy(b: _Builder, temperature: float) -> None:
    """−T·(peak + log Σ exp(logits/T − peak)); ReduceLogSumExp may lack the shift by the peak."""
    scaled = b.step("Div", ["logits", b.constant("temperature", temperature)], "scaled_logits")
    peak = b.reduce("ReduceMax", scaled, "peak")
    shifted = b.step("Sub", [scaled, peak], "shifted")
    total = b.reduce("ReduceSum", b.step("Exp", [shifted], "exponentials"), "total")
    log = b.step("Add", [b.step("Log", [total], "log_total"), peak], "log_sum_exp")
    minus_t = b.step("Mul", [log, b.constant("minus_temperature", -temperature)], "energy_column")
    b.reduce("ReduceSum", minus_t, "energy", keep=False, final=True)  # [batch, 1] → [batch]


def _mahalanobis(b: _Builder, head: GateHead) -> None:
    """Centre, unit length, whiten; the nearest mean by one GEMM; then its exact distance."""
    z = b.step("Sub", ["features", b.constant("centre", head.centre)], "centred")
    if head.normalise:
        square = b.reduce("ReduceSum", b.step("Mul", [z, z], "centred_squared"), "length_squared")
        length = b.step("Sqrt", [square], "length")
        length = b.step("Max", [length, b.constant("tiny", 1e-12)], "length_floored")
        z = b.step("Div", [z, length], "unit")
    if head.whitening is not None:
        z = b.step("MatMul", [z, b.constant("whitening", head.whitening)], "whitened")
    m = np.asarray(head.means, np.float64)
    means = b.constant("means", m)
    offset = b.constant("mean_offset", -0.5 * (m * m).sum(axis=1))
    # argmin |z − m|² = argmax z·m − |m|²/2: |z|² is the same for every class.
    likeness = b.step("Gemm", [z, means, offset], "likeness", transB=1)
    nearest = b.node("ArgMax", [likeness], "nearest_class", axis=1, keepdims=0)
    difference = b.step("Sub", [z, b.step("Gather", [means, nearest], "winner")], "difference")
    squared = b.step("Mul", [difference, difference], "difference_squared")
    b.reduce("ReduceSum", squared, "mahalanobis", keep=False, final=True)


def _check(model: onnx.ModelProto, spec: PreprocessSpec, head: GateHead) -> tuple[str, int, int]:
    """Return the backbone's input name, its number of classes and its feature width."""
    graph = model.graph
    constants = {constant.name for constant in graph.initializer}
    entries = [value for value in graph.input if value.name not in constants]
    outputs = {value.name: _shape(value) for value in graph.output}
    if len(entries) != 1 or not {"logits", "features"} <= outputs.keys():
        raise BuildRefused("A backbone has one input and the outputs logits and features.")
    height, width = spec.output_size
    shape = _shape(entries[0])
    if not isinstance(shape[0], str) or shape[1:] != [3, height, width]:
        raise BuildRefused(f"The backbone takes {shape}, not [batch, 3, {height}, {width}].")
    names = {name for node in graph.node for name in (*node.input, *node.output)} | constants
    if clash := sorted(names & _RESERVED) + [name for name in names if name.startswith(PREFIX)]:
        raise BuildRefused(f"The backbone uses the name {clash[0]!r}, which sealing needs.")
    classes, features = len(head.means), len(head.centre)
    space = features if head.whitening is None else head.whitening.shape[1]
    if outputs["logits"][1:] != [classes] or outputs["features"][1:] != [features]:
        raise BuildRefused(f"The gate is for {classes} classes and {features} features.")
    if head.means.shape[1] != space:
        raise BuildRefused(f"The class means have {head.means.shape[1]} dimensions, not {space}.")
    return entries[0].name, classes, features


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    kind = value.type.tensor_type
    if kind.elem_type != TensorProto.FLOAT or not kind.shape.dim:
        raise BuildRefused(f"The backbone's {value.name!r} is not a float32 tensor.")
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in kind.shape.dim]


def _opset(model: onnx.ModelProto) -> int:
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < _OLDEST_OPSET:
        raise BuildRefused(
            f"The backbone has opset {opset}; sealing needs {_OLDEST_OPSET} or newer."
        )
    return int(opset)


def _replace(
    graph: onnx.GraphProto,
    before: list[onnx.NodeProto],
    after: list[onnx.NodeProto],
    constants: list[onnx.TensorProto],
    sizes: tuple[tuple[int, int], int, int],
) -> None:
    (height, width), classes, features = sizes
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    shape: list[str | int | None] = ["batch", height, width, 3]
    graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape))
    shapes: dict[str, list[str | int | None]] = {
        "logits": ["batch", classes],
        "features": ["batch", features],
    }
    for name in OUTPUTS:
        kind = TensorProto.INT64 if name == "nearest_class" else TensorProto.FLOAT
        value = helper.make_tensor_value_info(name, kind, shapes.get(name, ["batch"]))
        graph.output.append(value)


def _strip(model: onnx.ModelProto) -> None:
    """Drop what exporters leave behind: stack traces, paths and dates change the bytes."""
    model.producer_name, model.producer_version, model.doc_string = "tidegate", "", ""
    model.graph.name, model.graph.doc_string = "tidegate-sealed", ""
    del model.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
