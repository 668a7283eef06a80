"""Compute the logits of features and of clipped features by one product.

For a single image a product takes the time of reading its matrix, and both have the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tidegate.models.graphs.builder import Builder
from tidegate.models.graphs.names import OUTPUTS, PREFIX
from tidegate.models.graphs.rewrite import producers
from tidegate.models.sealing.score_heads import CLIPPED_LOGITS

_LOGITS, _FEATURES = OUTPUTS[:2]
_ROWS, _PRODUCT = PREFIX + "both_features", PREFIX + "both_logits"
_PLAIN = {"transB": 1, "transA": 0, "alpha": 1.0, "beta": 1.0}
_SAME = 1e-6  # relative difference of weights: the score's were measured by running the layer


def share_last_layer(graph: onnx.GraphProto, opset: int) -> None:
    """Let the last layer compute both, if it is a Gemm with the weights of the clipped energy."""
    nodes, constants = producers(graph), _constants(graph)
    last, clipped = nodes[_LOGITS], nodes.get(CLIPPED_LOGITS)
    if clipped is None or not _is_same_layer(last, clipped, constants):
        return
    classes, width = constants[clipped.input[1]].shape
    b, clip = Builder(opset), nodes[clipped.input[0]]
    pair = b.step("Concat", [_FEATURES, clipped.input[0]], "pair_of_features", axis=1)
    b.node("Reshape", [pair, b.constant("width_of_features", [-1, width])], _ROWS)
    before = b.take_nodes()
    pair = b.step("Reshape", [_PRODUCT, b.constant("width_of_pair", [-1, 2 * classes])], "pair")
    b.outputs(
        "Split", [pair, b.constant("sizes", [classes] * 2)], [_LOGITS, CLIPPED_LOGITS], axis=1
    )
    both = _moved(last, _ROWS, _PRODUCT)
    new = [clip, *before, both, *b.take_nodes()]
    _replace(graph, {_LOGITS: new, clip.output[0]: (), CLIPPED_LOGITS: ()}, b.constants)


def separate_last_layer(graph: onnx.GraphProto) -> None:
    """Undo `share_last_layer`."""
    nodes, constants = producers(graph), _constants(graph)
    if _PRODUCT not in nodes:
        return
    last, rows, split = nodes[_PRODUCT], nodes[_ROWS], nodes[_LOGITS]
    pair = nodes[rows.input[0]]
    names = [f"{CLIPPED_LOGITS}_{part}" for part in ("weights", "bias")]
    copies = [
        numpy_helper.from_array(constants[own], name)
        for own, name in zip(last.input[1:], names, strict=True)
    ]
    clip = nodes[pair.input[1]]
    clipped = helper.make_node(
        "Gemm", [pair.input[1], *names], [CLIPPED_LOGITS], name=CLIPPED_LOGITS, transB=1
    )
    ours = [clip, pair, rows, nodes[split.input[0]], split]
    new = [_moved(last, _FEATURES, _LOGITS), clip, clipped]
    _replace(graph, {**{one.output[0]: () for one in ours}, _PRODUCT: new}, copies)


def _is_same_layer(
    last: onnx.NodeProto, clipped: onnx.NodeProto, constants: Mapping[str, NDArray[Any]]
) -> bool:
    options = {a.name: helper.get_attribute_value(a) for a in last.attribute}
    if last.op_type != "Gemm" or last.input[0] != _FEATURES or {**_PLAIN, **options} != _PLAIN:
        return False
    own = [constants.get(name) for name in last.input[1:]]
    others = [constants[name] for name in clipped.input[1:]]
    return len(own) == len(others) and all(
        mine is not None
        and mine.dtype == np.float32
        and mine.shape == other.shape
        and bool(np.max(np.abs(mine - other)) <= _SAME * max(1.0, np.max(np.abs(other))))
        for mine, other in zip(own, others, strict=True)
    )


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    return {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}


def _moved(node: onnx.NodeProto, source: str, output: str) -> onnx.NodeProto:
    """Return the layer with another input and output."""
    moved = onnx.NodeProto()
    moved.CopyFrom(node)
    moved.input[0], moved.output[0] = source, output
    return moved


def _replace(
    graph: onnx.GraphProto,
    by_output: Mapping[str, Sequence[onnx.NodeProto]],
    constants: Sequence[onnx.TensorProto],
) -> None:
    """Replace the nodes with these first outputs, and keep the constants that are used."""
    nodes = [new for node in graph.node for new in by_output.get(node.output[0], (node,))]
    used = {name for node in nodes for name in node.input}
    kept = [one for one in (*graph.initializer, *constants) if one.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
