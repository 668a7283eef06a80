"""The last layer computes the logits of clipped features too, and a sealed backbone comes back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tests.unit.models import tiny
from tests.unit.models.sealing.test_seal import images
from tidegate.models.graphs.session import quiet_session
from tidegate.models.sealing.check import check_against_float64, run
from tidegate.models.sealing.gate_head import GateHead
from tidegate.models.sealing.score_heads import CLIPPED_LOGITS, ClippedEnergy, Linear, ScoreHead
from tidegate.models.sealing.seal import seal, without_gate
from tidegate.models.sealing.unseal import reseal, unseal

CEILING = 0.0  # some features of the tiny backbone are above
BIAS = np.linspace(-1, 1, tiny.CLASSES, dtype=np.float32)


def backbone(alpha: float = 1.0, beta: float = 1.0) -> onnx.ModelProto:
    """Return the tiny backbone with a last layer as exporters write it."""
    model, weights = tiny.backbone(tiny.numbers()), tiny.numbers().w
    node = helper.make_node(
        "Gemm",
        ["features", "layer.weight", "layer.bias"],
        ["logits"],
        transB=1,
        alpha=alpha,
        beta=beta,
    )
    model.graph.node[-1].CopyFrom(node)
    del model.graph.initializer[-1]
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.ascontiguousarray(weights.T), "layer.weight"),
            numpy_helper.from_array(BIAS, "layer.bias"),
        ]
    )
    return model


def head(weights: NDArray[np.float32] | None = None) -> GateHead:
    own = tiny.numbers().w.T if weights is None else weights
    others: dict[str, ScoreHead] = {
        "clipped_energy": ClippedEnergy(CEILING, own, BIAS),
        "drawn": Linear(np.ones(tiny.WIDTH)),
    }
    return replace(tiny.head(whiten=True), others=others)


def products(sealed: bytes) -> int:
    graph = onnx.load_model_from_string(sealed).graph
    return sum(tiny.CLASSES in c.dims and tiny.WIDTH in c.dims for c in graph.initializer)


def test_the_weights_are_in_the_graph_once_and_the_scores_are_the_same() -> None:
    shared, apart = (seal(backbone(beta=beta), tiny.SPEC, head()) for beta in (1.0, 0.5))

    found = run(shared, images(4))

    check_against_float64(found, head())  # raises beyond 1e-5
    assert np.any(found.features > CEILING + 0.01)
    assert products(apart) - products(shared) == 1
    assert CLIPPED_LOGITS in {
        output for node in onnx.load_model_from_string(shared).graph.node for output in node.output
    }


def test_the_logits_are_those_of_the_backbone() -> None:
    pixels = np.stack(images(4))

    found = run(seal(backbone(), tiny.SPEC, head()), images(4))

    session = quiet_session(without_gate(backbone(), tiny.SPEC))
    np.testing.assert_allclose(
        found.logits, session.run(["logits"], {"pixels": pixels})[0], rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(
    "other",
    [
        (backbone(alpha=0.5), head()),
        (backbone(), head(2 * tiny.numbers().w.T)),
        (tiny.backbone(tiny.numbers()), head()),
    ],
    ids=["a scaled layer", "other weights", "no Gemm"],
)
def test_another_layer_is_not_shared(other: tuple[onnx.ModelProto, GateHead]) -> None:
    sealed = seal(other[0], tiny.SPEC, other[1])

    check_against_float64(run(sealed, images(4)), other[1])
    assert b"both_features" not in sealed


def test_the_backbone_of_a_shared_layer_comes_back() -> None:
    again = unseal(seal(backbone(), tiny.SPEC, head()))

    assert [list(n.input) for n in again.graph.node][-1] == [
        "features",
        "layer.weight",
        "layer.bias",
    ]
    assert {c.name for c in again.graph.initializer} >= {"layer.weight", "layer.bias"}
    assert not [n for n in again.graph.node if n.name.startswith("tidegate/")]


def test_another_backbone_gets_the_gate_of_a_shared_layer() -> None:
    other = backbone()
    doubled = numpy_helper.to_array(other.graph.initializer[-2]) * np.float32(2)
    other.graph.initializer[-2].CopyFrom(numpy_helper.from_array(doubled, "layer.weight"))
    sealed = seal(backbone(), tiny.SPEC, head())

    before, after = run(sealed, images(4)), run(reseal(sealed, other), images(4))

    np.testing.assert_allclose(after.logits - BIAS, 2 * (before.logits - BIAS), rtol=1e-5)
    np.testing.assert_array_equal(after.scores[:, 1:], before.scores[:, 1:])
