"""The tensors of a graph that show where something is."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tidegate.models.graphs.spatial_maps import spatial_maps


def network(nodes: list[onnx.NodeProto], side: int) -> onnx.ModelProto:
    weights = np.ones((4, 3, 3, 3), np.float32), np.ones((4, 4, 3, 3), np.float32)
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", floats, ["batch", 3, side, side])],
        [helper.make_tensor_value_info("end", floats, ["batch", 4, None, None])],
        [numpy_helper.from_array(w, f"w{at}") for at, w in enumerate(weights)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def conv(source: str, weight: str, to: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weight], [to], strides=[2, 2], pads=[1, 1, 1, 1])


def test_the_last_tensor_of_each_grid_is_found() -> None:
    model = network(
        [
            conv("input", "w0", "first"),
            helper.make_node("Relu", ["first"], ["first_end"]),
            conv("first_end", "w1", "second"),
            helper.make_node("GlobalAveragePool", ["second"], ["scale"]),
            helper.make_node("Mul", ["second", "scale"], ["end"]),
        ],
        16,
    )

    assert spatial_maps(model) == {(8, 8): "first_end", (4, 4): "end"}


def test_attention_between_tokens_is_no_map() -> None:
    model = network(
        [
            conv("input", "w0", "patches"),
            helper.make_node("Transpose", ["patches"], ["turned"], perm=[0, 1, 3, 2]),
            helper.make_node("Concat", ["turned", "turned"], ["tokens"], axis=2),
            helper.make_node("Softmax", ["tokens"], ["end"]),
        ],
        16,
    )

    assert spatial_maps(model) == {(8, 8): "turned"}
