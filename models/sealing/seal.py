"""Compose any backbone and a gate into the sealed graph: pixels in, numbers out.

The arithmetic of the gate head is that of `tidegate.service.ood.scores`, in float32 and in the graph, so
that no engine and no host code can compute another score than the one that was calibrated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tidegate.models.errors import BuildRefused
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.ood.scores import Float64, mahalanobis_score

PREFIX = "tidegate/"
OUTPUTS = ("logits", "features", "energy", "mahalanobis", "nearest_class")
_RESERVED = {"pixels", "energy", "mahalanobis", "nearest_class"}
_OLDEST_OPSET = 13
_HEAD_OPSET = 17


@dataclass(frozen=True, slots=True)
class GateHead:
    """The fitted parameters of both scores, as `tidegate.service.ood.scores` takes them."""

    energy_temperature: float
    centre: NDArray[np.floating]  # [D]
    whitening: NDArray[np.floating] | None  # [D, D']
    means: NDArray[np.floating]  # [classes, D'], in the whitened space
    normalise: bool
    offset: NDArray[np.floating] | None = None  # [D], subtracted after normalising
    background: NDArray[np.floating] | None = None  # [D, D″], makes the distance a relative one

    def distance(self, features: NDArray[np.floating]) -> tuple[Float64, NDArray[np.int64]]:
        """Return float64's score and nearest class of each row of `features` [batch, D]."""
        return mahalanobis_score(
            features,
            self.centre,
            self.whitening,
            self.means,
            normalise=self.normalise,
            offset=self.offset,
            background=self.background,
        )


def seal(backbone: onnx.ModelProto, spec: PreprocessSpec, head: GateHead) -> bytes:
    """Return the sealed graph as file content; the same inputs give the same bytes.

    `backbone` takes float32 [batch, 3, H, W] and gives `logits` and `features`; the result takes
    `pixels` uint8 [batch, H, W, 3]. Raises BuildRefused when the parts do not fit together.
    """
    entry, classes, width = _check(backbone, spec)
    _check_head(head, classes, width)
    builder = _Builder(_opset(backbone))
    _normalise(builder, spec, entry)
    before = builder.take_nodes()
    _energy(builder, head.energy_temperature)
    _mahalanobis(builder, head)
    after = builder.take_nodes()
    return _assembled(backbone, before, after, builder.constants, spec, _shapes(classes, width))


def without_gate(backbone: onnx.ModelProto, spec: PreprocessSpec) -> bytes:
    """Return the graph that a gate is fitted on: uint8 pixels in, `logits` and `features` out."""
    entry, classes, width = _check(backbone, spec)
    builder = _Builder(_opset(backbone))
    _normalise(builder, spec, entry)
    shapes = {name: _shapes(classes, width)[name] for name in OUTPUTS[:2]}
    return _assembled(backbone, builder.take_nodes(), [], builder.constants, spec, shapes)


def head_alone(head: GateHead) -> bytes:
    """Return the gate head as a graph: `logits` and `features` in, the three scores out.

    The nodes are those that `seal` adds, so scoring stored outputs is what serving computes.
    """
    builder = _Builder(_HEAD_OPSET)
    _energy(builder, head.energy_temperature)
    _mahalanobis(builder, head)
    shapes = {"logits": len(head.means), "features": len(head.centre)}
    graph = helper.make_graph(
        builder.take_nodes(),
        "tidegate-head",
        [_value(name, TensorProto.FLOAT, ["batch", width]) for name, width in shapes.items()],
        [_value(name, _kind(name), ["batch"]) for name in OUTPUTS[2:]],
        builder.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _HEAD_OPSET)])
    model.ir_version = 9
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


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
    if head.offset is not None:
        z = b.step("Sub", [z, b.constant("offset", head.offset)], "offset_removed")
    x = z
    if head.whitening is not None:
        x = b.step("MatMul", [z, b.constant("whitening", head.whitening)], "whitened")
    m = np.asarray(head.means, np.float64)
    means = b.constant("means", m)
    constant = b.constant("mean_offset", -0.5 * (m * m).sum(axis=1))
    # argmin |x − m|² = argmax x·m − |m|²/2: |x|² is the same for every class.
    likeness = b.step("Gemm", [x, means, constant], "likeness", transB=1)
    nearest = b.node("ArgMax", [likeness], "nearest_class", axis=1, keepdims=0)
    difference = b.step("Sub", [x, b.step("Gather", [means, nearest], "winner")], "difference")
    squared = b.step("Mul", [difference, difference], "difference_squared")
    if head.background is None:
        b.reduce("ReduceSum", squared, "mahalanobis", keep=False, final=True)
        return
    to_class = b.reduce("ReduceSum", squared, "to_class", keep=False)
    y = b.step("MatMul", [z, b.constant("background", head.background)], "background_whitened")
    to_all = b.reduce("ReduceSum", b.step("Mul", [y, y], "y_squared"), "to_all", keep=False)
    b.node("Sub", [to_class, to_all], "mahalanobis")


def _check(model: onnx.ModelProto, spec: PreprocessSpec) -> tuple[str, int, int]:
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
    widths = [outputs[name][1] for name in OUTPUTS[:2] if len(outputs[name]) == 2]
    if len(widths) != 2 or not all(isinstance(width, int) for width in widths):
        raise BuildRefused("A backbone's logits and features are [batch, number].")
    return entries[0].name, int(widths[0]), int(widths[1])


def _check_head(head: GateHead, classes: int, width: int) -> None:
    if (len(head.means), len(head.centre)) != (classes, width):
        raise BuildRefused(
            f"The gate is for {len(head.means)} classes and {len(head.centre)} features."
        )
    space = width if head.whitening is None else head.whitening.shape[1]
    if head.means.shape[1] != space:
        raise BuildRefused(f"The class means have {head.means.shape[1]} dimensions, not {space}.")


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


def _shapes(classes: int, width: int) -> dict[str, list[str | int | None]]:
    """Return the shape of every output, in order."""
    wide: dict[str, list[str | int | None]] = {
        "logits": ["batch", classes],
        "features": ["batch", width],
    }
    return {name: wide.get(name, ["batch"]) for name in OUTPUTS}


def _assembled(
    backbone: onnx.ModelProto,
    before: list[onnx.NodeProto],
    after: list[onnx.NodeProto],
    constants: list[onnx.TensorProto],
    spec: PreprocessSpec,
    outputs: dict[str, list[str | int | None]],
) -> bytes:
    """Return the backbone with nodes around it, taking `pixels` and giving `outputs`."""
    model = onnx.ModelProto()
    model.CopyFrom(backbone)
    graph = model.graph
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    height, width = spec.output_size
    graph.input.append(_value("pixels", TensorProto.UINT8, ["batch", height, width, 3]))
    graph.output.extend(_value(name, _kind(name), shape) for name, shape in outputs.items())
    _strip(model)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _kind(output: str) -> int:
    return TensorProto.INT64 if output == "nearest_class" else TensorProto.FLOAT


def _value(name: str, kind: int, shape: list[str | int | None]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _strip(model: onnx.ModelProto) -> None:
    """Drop what exporters leave behind: stack traces, paths and dates change the bytes."""
    model.producer_name, model.producer_version, model.doc_string = "tidegate", "", ""
    model.graph.name, model.graph.doc_string = "tidegate-sealed", ""
    del model.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
