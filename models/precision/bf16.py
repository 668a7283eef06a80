"""Convert a backbone to bfloat16, in which OpenVINO computes on CPUs with AMX.

bfloat16 has the range of float32 and 8 bits of precision, so nothing overflows and nothing is
calibrated. The weights are stored in bfloat16, which says how the graph is to be computed
(`tidegate.models.graphs.session`) and halves the file; the runtime rounds the activations.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.names import OUTPUTS
from tidegate.models.graphs.rewrite import producers

_PRODUCTS = ("Conv", "Gemm", "MatMul")


def to_bf16(backbone: onnx.ModelProto) -> onnx.ModelProto:
    """Return `backbone` with the weights of its products in bfloat16, up to `features`.

    Each is cast to float32 where it is read, so the other nodes are as they were. The last layer
    stays in float32. Raises BuildRefused if there is no such weight.
    """
    model = onnx.ModelProto()
    model.CopyFrom(backbone)
    graph = model.graph
    floats = {item.name: item for item in graph.initializer if item.data_type == TensorProto.FLOAT}
    casts: dict[str, onnx.NodeProto] = {}
    for node in _before_features(graph):
        for index, name in enumerate(node.input[:2]):
            if name in floats:
                casts.setdefault(name, _rounded(floats[name]))
                node.input[index] = casts[name].output[0]
    if not casts:
        raise BuildRefused(
            "bf16 rounds the layers before the features, and none of this backbone's is a "
            "convolution or a product with constant weights: use fp32."
        )
    nodes = [*casts.values(), *graph.node]
    read = {name for node in nodes for name in node.input}
    kept = [item for item in graph.initializer if item.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    return model


def _before_features(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the products that `features` needs."""
    makers = producers(graph)
    found: dict[str, onnx.NodeProto] = {}
    ahead = [OUTPUTS[1]]
    while ahead:
        node = makers.get(ahead.pop())
        if node is not None and node.output[0] not in found:
            found[node.output[0]] = node
            ahead += node.input
    return [node for node in found.values() if node.op_type in _PRODUCTS]


def _rounded(weights: onnx.TensorProto) -> onnx.NodeProto:
    """Round `weights` in place, ties to even; return the node that casts them to float32."""
    bits = numpy_helper.to_array(weights).astype(np.float32).view(np.uint32).astype(np.uint64)
    halves = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    name, stored = weights.name, f"{weights.name}/bf16"
    weights.CopyFrom(
        helper.make_tensor(stored, TensorProto.BFLOAT16, weights.dims, halves.tobytes(), raw=True)
    )
    return helper.make_node("Cast", [stored], [name], name=f"{name}/float", to=TensorProto.FLOAT)
