"""A small backbone of random filters for digits, whose features a linear layer can use."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tidegate.models.digits.loader import SPEC
from tidegate.models.graphs.new_head import with_head
from tidegate.models.importers.base import Imported

_FILTERS, _SIDE, _CELLS = 24, 7, 4


def imported(classes: int) -> Imported:
    """Return it with an empty last layer."""
    height, width = SPEC.output_size
    filters = np.random.default_rng(0).normal(size=(_FILTERS, 3, _SIDE, _SIDE)) / _SIDE
    features = _FILTERS * _CELLS**2
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "filters"], ["found"], pads=[_SIDE // 2] * 4),
            helper.make_node("Relu", ["found"], ["positive"]),
            helper.make_node(
                "AveragePool",
                ["positive"],
                ["pooled"],
                kernel_shape=[_SIDE] * 2,
                strides=[_SIDE] * 2,
            ),
            helper.make_node("Flatten", ["pooled"], ["features"]),
        ],
        "random",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, height, width])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", features])],
        [numpy_helper.from_array(filters.astype(np.float32), "filters")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return Imported(
        backbone=with_head(model, np.zeros((classes, features)), np.zeros(classes)),
        spec=SPEC,
        transform=None,
        forward=None,
        source="random filters",
        licence="CC0-1.0",
        checkpoint_sha256="0" * 64,
        labels=None,
    )
