"""Compose a backbone and a gate into the sealed graph, from pixels to logits and scores.

The gate head has the arithmetic of `tidegate.service.ood.scores`, in float32 and inside the graph,
so every engine computes the score that was calibrated.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs import engine_mark
from tidegate.models.graphs.builder import Builder, kind_of, tensor
from tidegate.models.graphs.names import OUTPUTS, PREFIX
from tidegate.models.sealing.gate_head import GateHead, add_scores
from tidegate.models.sealing.shared_layer import share_last_layer
from tidegate.service.imaging.spec import PreprocessSpec

_RESERVED = {"pixels", "scores", "nearest_class"}
_OLDEST_OPSET = 13


def seal(backbone: onnx.ModelProto, spec: PreprocessSpec, head: GateHead) -> bytes:
    """Return the sealed graph as file content; the same inputs give the same bytes.

    `backbone` maps float32 [batch, 3, H, W] to `logits` and `features`; the result's input is
    `pixels` uint8 [batch, H, W, 3]. Raises BuildRefused if the parts do not match.
    """
    entry, classes, width = _check(backbone, spec)
    _check_head(head, classes, width)
    builder = Builder(_opset(backbone))
    _normalise(builder, spec, entry)
    before = builder.take_nodes()
    add_scores(builder, head)
    after = builder.take_nodes()
    shapes = _shapes(classes, width, len(head.names))
    return _assembled(backbone, before, after, builder.constants, spec, shapes)


def without_gate(backbone: onnx.ModelProto, spec: PreprocessSpec) -> bytes:
    """Return the graph for fitting a gate: uint8 pixels → `logits` and `features`."""
    entry, classes, width = _check(backbone, spec)
    builder = Builder(_opset(backbone))
    _normalise(builder, spec, entry)
    shapes = dict(list(_shapes(classes, width).items())[:2])
    return _assembled(backbone, builder.take_nodes(), [], builder.constants, spec, shapes)


def _normalise(b: Builder, spec: PreprocessSpec, entry: str) -> None:
    """Add (pixel · scale − mean) / std as one product and one sum, with float64 constants."""
    std = np.asarray(spec.std, np.float64).reshape(1, 3, 1, 1)
    mean = np.asarray(spec.mean, np.float64).reshape(1, 3, 1, 1)
    # Cast comes first: TensorRT supports uint8 only at a graph's input.
    x = b.step("Cast", ["pixels"], "floats", to=TensorProto.FLOAT)
    x = b.step("Transpose", [x], "planes", perm=[0, 3, 1, 2])
    x = b.step("Mul", [x, b.constant("gain", spec.scale / std)], "scaled")
    b.node("Add", [x, b.constant("bias", -mean / std)], entry)


def _check(model: onnx.ModelProto, spec: PreprocessSpec) -> tuple[str, int, int]:
    """Return the backbone's input name, its number of classes and its feature width."""
    graph = model.graph
    constants = {constant.name for constant in graph.initializer}
    entries = [value for value in graph.input if value.name not in constants]
    outputs = {value.name: _shape(value) for value in graph.output}
    if len(entries) != 1 or not {"logits", "features"} <= outputs.keys():
        raise BuildRefused("A backbone must have one input and the outputs logits and features.")
    height, width = spec.output_size
    shape = _shape(entries[0])
    if not isinstance(shape[0], str) or shape[1:] != [3, height, width]:
        raise BuildRefused(f"The backbone's input is {shape}, not [batch, 3, {height}, {width}].")
    names = {name for node in graph.node for name in (*node.input, *node.output)} | constants
    if clash := sorted(names & _RESERVED) + [name for name in names if name.startswith(PREFIX)]:
        raise BuildRefused(
            f"The backbone uses the name {clash[0]!r}, which is reserved for sealing."
        )
    widths = [outputs[name][1] for name in OUTPUTS[:2] if len(outputs[name]) == 2]
    if len(widths) != 2 or not all(isinstance(width, int) for width in widths):
        raise BuildRefused("A backbone's logits and features must be [batch, number].")
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


def _shapes(classes: int, width: int, scores: int = 0) -> dict[str, list[str | int | None]]:
    """Return the shape of every output, in order."""
    widths: tuple[list[int], ...] = ([classes], [width], [scores], [])
    return {name: ["batch", *wide] for name, wide in zip(OUTPUTS, widths, strict=True)}


def _assembled(
    backbone: onnx.ModelProto,
    before: list[onnx.NodeProto],
    after: list[onnx.NodeProto],
    constants: list[onnx.TensorProto],
    spec: PreprocessSpec,
    outputs: dict[str, list[str | int | None]],
) -> bytes:
    """Return the backbone with the added nodes, from `pixels` to `outputs`."""
    model = onnx.ModelProto()
    model.CopyFrom(backbone)
    graph = model.graph
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    share_last_layer(graph, _opset(backbone))
    height, width = spec.output_size
    graph.input.append(tensor("pixels", TensorProto.UINT8, ["batch", height, width, 3]))
    graph.output.extend(tensor(name, kind_of(name), shape) for name, shape in outputs.items())
    _strip(model)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _strip(model: onnx.ModelProto) -> None:
    """Drop exporters' metadata: stack traces, paths and dates would change the bytes."""
    engine = engine_mark.engine_of(model)
    model.producer_name, model.producer_version, model.doc_string = "tidegate", "", ""
    model.graph.name, model.graph.doc_string = "tidegate-sealed", ""
    del model.metadata_props[:]
    if engine is not None:
        engine_mark.mark_for_openvino(model)
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
