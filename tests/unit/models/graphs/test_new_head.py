"""A backbone with another last layer."""

from __future__ import annotations

import numpy as np
import onnx

from tests.unit.models.colour_folders import backbone
from tests.unit.models.tiny import SIDE
from tidegate.models.graphs.last_layer import last_layer
from tidegate.models.graphs.new_head import encoder, with_head
from tidegate.models.graphs.session import run_once


def images() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(0).normal(size=(4, 3, SIDE, SIDE)).astype(np.float32)


def test_the_logits_are_those_of_the_new_layer_and_the_features_stay() -> None:
    weights, bias = np.arange(18.0).reshape(3, 6), np.array([1.0, -1.0, 0.5])

    model = with_head(backbone(), weights, bias)

    logits, features = run_once(model, ("logits", "features"), images())
    (before,) = run_once(backbone(), ("features",), images())
    np.testing.assert_array_equal(features, before)
    np.testing.assert_allclose(logits, before @ weights.T + bias, rtol=1e-5)
    found = last_layer(model)
    assert found is not None
    np.testing.assert_allclose(found.weights, weights, rtol=1e-5)


def test_nothing_of_the_old_layer_is_left() -> None:
    model = with_head(with_head(backbone(), np.ones((2, 6)), np.zeros(2)), np.eye(6), np.zeros(6))

    assert [node.op_type for node in model.graph.node].count("Gemm") == 1
    assert {"weights"}.isdisjoint(constant.name for constant in model.graph.initializer)
    assert [value.name for value in model.graph.output] == ["logits", "features"]


def test_an_encoder_computes_the_features_alone_whatever_the_last_layer() -> None:
    one = with_head(backbone(), np.ones((2, 6)), np.zeros(2))
    other = with_head(backbone(), np.eye(6), np.zeros(6))

    assert encoder(one) == encoder(other)
    assert [value.name for value in encoder(one).graph.output] == ["features"]
    onnx.checker.check_model(encoder(one), full_check=True)
