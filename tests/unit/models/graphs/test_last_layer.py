"""Reading a backbone's last layer from its graph."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.unit.models import tiny
from tidegate.models.graphs.last_layer import last_layer


def test_the_weights_of_a_linear_last_layer_are_read() -> None:
    given = tiny.numbers()

    layer = last_layer(tiny.backbone(given))

    assert layer is not None
    np.testing.assert_allclose(layer.weights, given.w.T, rtol=1e-6)
    np.testing.assert_array_equal(layer.bias, np.zeros(tiny.CLASSES))


def backbone(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """A backbone whose features are the mean pixel, and whose logits are made by `nodes`."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3])
        for name in ("features", "logits")
    ]
    entry = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])
    pooled = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
    ]
    weights = np.diag([1.0, 2.0, -3.0]).astype(np.float32)
    bias = np.array([0.5, 0.0, 1.0], np.float32)
    graph = helper.make_graph(
        [*pooled, *nodes],
        "tiny",
        [entry],
        values,
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model


def test_a_bias_that_is_added_separately_belongs_to_the_layer() -> None:
    product = helper.make_node("MatMul", ["features", "w"], ["product"])
    layer = last_layer(backbone(product, helper.make_node("Add", ["product", "b"], ["logits"])))

    assert layer is not None
    assert layer.bias.tolist() == [0.5, 0.0, 1.0]
    assert np.diag(layer.weights).tolist() == [1.0, 2.0, -3.0]


def test_features_before_an_activation_have_no_linear_last_layer() -> None:
    relu = helper.make_node("Relu", ["features"], ["positive"])
    product = helper.make_node("Gemm", ["positive", "w", "b"], ["logits"])

    assert last_layer(backbone(relu, product)) is None


def test_logits_that_do_not_come_from_the_features_have_no_last_layer() -> None:
    elsewhere = helper.make_node("Flatten", ["pooled"], ["flat"])
    product = helper.make_node("Gemm", ["flat", "w", "b"], ["logits"])

    assert last_layer(backbone(elsewhere, product)) is None
