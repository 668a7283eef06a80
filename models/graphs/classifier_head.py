"""Find the logits and the features at the end of a classifier's graph."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import onnx

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.rewrite import called, listed

_PASSES = {
    "Identity",
    "Flatten",
    "Reshape",
    "Squeeze",
    "Dropout",
}  # they keep the values and their order
_CANDIDATES = 5
_CONSTANT_THROUGH = {"Identity", "Transpose", "Reshape", "Cast", "DequantizeLinear"}


def only_output(graph: onnx.GraphProto, features: str | None, notes: list[str]) -> str:
    """Return the tensor of the class scores: the only output, or the only one [batch, C].

    `features` is what the user states to be the features, and no candidate.
    """
    outputs = [o for o in graph.output if o.name != features] or list(graph.output)
    if len(outputs) > 1:
        table = [o for o in outputs if len(o.type.tensor_type.shape.dim) == 2]
        named = [o for o in table if o.name == "logits"]
        outputs = named or table
    if len(outputs) != 1:
        raise BuildRefused(
            f"The graph's outputs are {listed(_shown(o) for o in graph.output)}: export it with "
            "the class scores [batch, classes] as its only output, or call them logits; if the "
            "other one is the features, name it as --features."
        )
    kept = (outputs[0].name, features or "features")
    if dropped := [output.name for output in graph.output if output.name not in kept]:
        notes.append("outputs left out: " + ", ".join(dropped))
    return str(outputs[0].name)


def strip_softmax(
    graph: onnx.GraphProto,
    last: str,
    by_output: Mapping[str, onnx.NodeProto],
    notes: list[str],
) -> None:
    """Remove a Softmax or LogSoftmax at the end, or the Sigmoid of a single score.

    Raises BuildRefused for a Sigmoid of several.
    """
    node = by_output.get(last)
    while node is not None and node.op_type in _PASSES:
        node = by_output.get(node.input[0])
    if node is None:
        return
    if node.op_type == "Sigmoid" and not _is_single(graph, last):
        raise BuildRefused(
            "The graph ends in a Sigmoid, so its classes are not mutually exclusive. Multi-label "
            "models are not supported."
        )
    if node.op_type in ("Softmax", "LogSoftmax", "Sigmoid"):
        notes.append(f"a trailing {node.op_type} was removed")
        node.op_type = "Identity"
        del node.attribute[:]


def find_features(
    graph: onnx.GraphProto,
    last: str,
    by_output: Mapping[str, onnx.NodeProto],
    stated: str | None,
    notes: list[str],
) -> str:
    """Return the tensor of the penultimate features."""
    if stated is None and last != "features" and "features" in {o.name for o in graph.output}:
        stated = "features"
    if stated is None:
        classifier = _classifier(graph, last, by_output)
        notes.append(f"features: the input of {classifier.op_type} {called(classifier)}")
        return str(classifier.input[0])
    if stated not in by_output:
        near = difflib.get_close_matches(stated, by_output, n=3)
        hint = f"; similar names: {', '.join(near)}" if near else _candidates(graph, last)
        raise BuildRefused(f"The graph has no tensor {stated!r}{hint}.")
    if stated == last:
        raise BuildRefused(f"{stated!r} is the logits: give the tensor before the last layer.")
    notes.append(f"features: the tensor {stated}")
    return stated


def _classifier(
    graph: onnx.GraphProto, last: str, by_output: Mapping[str, onnx.NodeProto]
) -> onnx.NodeProto:
    """Follow the graph back from the logits to the linear layer that computes them."""
    fixed = {constant.name for constant in graph.initializer}
    fixed |= {constant.values.name for constant in graph.sparse_initializer}
    tensor, node = last, by_output.get(last)
    while node is not None:
        if _is_linear(node) and _is_constant(node.input[1], fixed, by_output):
            return node
        if node.op_type in _PASSES:
            tensor = node.input[0]
        elif node.op_type == "Add":
            moving = [i for i in node.input if not _is_constant(i, fixed, by_output)]
            if len(moving) != 1:
                break
            tensor = moving[0]
        else:
            break
        node = by_output.get(tensor)
    where = f"{node.op_type} {called(node)}" if node is not None else repr(tensor)
    raise BuildRefused(
        f"The logits come from {where}, not from one linear layer: give the tensor of the "
        f"penultimate features [batch, D] as --features TENSOR{_candidates(graph, last)}."
    )


def _candidates(graph: onnx.GraphProto, last: str) -> str:
    """Return the names of the last tensors [batch, D] of the graph, as the end of a sentence."""
    shapes = onnx.ModelProto(ir_version=9, graph=graph)
    shapes.opset_import.add(version=17)
    inferred = {
        value.name: value for value in onnx.shape_inference.infer_shapes(shapes).graph.value_info
    }
    wide = [
        _shown(inferred[name])
        for node in reversed(graph.node)
        for name in node.output
        if name != last and name in inferred and _is_table(inferred[name])
    ]
    return f"; candidates: {', '.join(wide[:_CANDIDATES])}" if wide else ""


def _is_table(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.tensor_type
    dims = kind.shape.dim
    return kind.elem_type == onnx.TensorProto.FLOAT and len(dims) == 2 and dims[1].dim_value > 1


def _is_single(graph: onnx.GraphProto, name: str) -> bool:
    """Return whether an output is declared with one score per image: [batch, 1] or [batch]."""
    dims = next(o.type.tensor_type.shape.dim for o in graph.output if o.name == name)
    return len(dims) == 1 or (len(dims) == 2 and dims[1].dim_value == 1)


def _shown(value: onnx.ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return f"{value.name} [{', '.join(str(d.dim_value or d.dim_param or '?') for d in dims)}]"


def _is_linear(node: onnx.NodeProto) -> bool:
    """Return whether the node is a linear layer; shapes are checked later."""
    if node.op_type == "Gemm":
        return not any(a.name == "transA" and a.i for a in node.attribute)
    return node.op_type in ("MatMul", "Conv")


def _is_constant(name: str, fixed: set[str], by_output: Mapping[str, onnx.NodeProto]) -> bool:
    while name not in fixed:
        node = by_output.get(name)
        if node is None or node.op_type not in _CONSTANT_THROUGH:
            return node is not None and node.op_type == "Constant"
        name = node.input[0]
    return True
