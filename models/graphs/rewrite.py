"""Read and rewrite ONNX graphs: producers, tensor names, renaming, removing unused nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx
from onnx import TensorProto, helper

from tidegate.models.graphs.names import OUTPUTS, PREFIX

ENTRY = "input"
# Names that sealing uses, in addition to everything under its prefix.
RESERVED = {ENTRY, "pixels", *OUTPUTS}


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in graph.node for output in node.output if output}


def integer_constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every int64 constant under its tensor's name."""
    yield from (c for c in graph.initializer if c.data_type == TensorProto.INT64)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constant = onnx.TensorProto()
            constant.CopyFrom(node.attribute[0].t)
            constant.name = node.output[0]
            if constant.data_type == TensorProto.INT64:
                yield constant


def _subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield attribute.g
            yield from attribute.graphs


def tensor_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield every tensor name in the graph and its subgraphs."""
    for node in graph.node:
        yield from node.input
        yield from node.output
    for value in (*graph.input, *graph.output, *graph.initializer):
        yield value.name
    for inner in _subgraphs(graph.node):
        yield from tensor_names(inner)


def float_value(name: str, shape: Sequence[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def called(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]


def listed(names: Iterable[str]) -> str:
    found = list(names)
    return f"{len(found)} ({', '.join(found)})" if found else "none"


def moved_aside(taken: set[str], wanted: Mapping[str, str]) -> dict[str, str]:
    """Return new names for tensors whose names collide with those that sealing uses."""
    moved: dict[str, str] = {}
    for name in sorted(taken - wanted.keys()):
        if name in RESERVED or name.startswith(PREFIX):
            new = f"source/{name}"
            while new in taken:
                new += "_"
            taken.add(new)
            moved[name] = new
    return moved


def rename(graph: onnx.GraphProto, renamed: Mapping[str, str]) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name in renamed:
                    names[index] = renamed[name]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = renamed.get(value.name, value.name)
    for inner in _subgraphs(graph.node):
        rename(inner, renamed)


def keep_needed(
    graph: onnx.GraphProto, nodes: list[onnx.NodeProto], outputs: Iterable[str] = OUTPUTS[:2]
) -> None:
    """Keep, in order, only the nodes and constants that `outputs` depend on."""
    needed = set(outputs)
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if needed.isdisjoint(node.output):
            continue
        kept.append(node)
        needed.update(node.input)
        for inner in _subgraphs([node]):
            needed.update(tensor_names(inner))
    constants = [constant for constant in graph.initializer if constant.name in needed]
    del graph.node[:], graph.initializer[:], graph.quantization_annotation[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)
