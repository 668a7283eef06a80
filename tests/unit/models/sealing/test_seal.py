from __future__ import annotations

import io

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models import tiny
from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.names import OUTPUTS
from tidegate.models.sealing.check import check_against_float64, run
from tidegate.models.sealing.seal import seal
from tidegate.service.ood.scores import energy_score, mahalanobis_score
from tidegate.service.types import Pixels


def images(count: int, seed: int = 0) -> list[Pixels]:
    rng = np.random.default_rng(seed)
    return [
        Pixels(rng.integers(0, 256, (tiny.SIDE, tiny.SIDE, 3), dtype=np.uint8))
        for _ in range(count)
    ]


@pytest.mark.parametrize("whiten", [False, True], ids=["plain", "whitened"])
@pytest.mark.parametrize("normalise", [False, True], ids=["raw", "unit length"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_scores_in_the_graph_are_those_of_float64(whiten: bool, normalise: bool, seed: int) -> None:
    head = tiny.head(seed, whiten=whiten, normalise=normalise)

    outputs = run(seal(tiny.backbone(tiny.numbers(seed)), tiny.SPEC, head), images(4, seed))

    energy = energy_score(outputs.logits, head.energy_temperature)
    distance, nearest = mahalanobis_score(
        outputs.features, head.centre, head.whitening, head.means, normalise=normalise
    )
    # The target: energy 1e-5, distance 1e-5 of itself; near a mean float32 subtracts.
    np.testing.assert_allclose(outputs.scores[:, 0], energy, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(outputs.scores[:, 1], distance, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(outputs.nearest_class, nearest)


def test_pixels_are_scaled_and_normalised_by_the_spec() -> None:
    given = tiny.numbers()
    batch = images(3)

    outputs = run(seal(tiny.backbone(given), tiny.SPEC, tiny.head()), batch)

    floats = (np.stack(batch) * tiny.SPEC.scale - tiny.SPEC.mean) / tiny.SPEC.std
    np.testing.assert_allclose(outputs.features, floats.mean(axis=(1, 2)) @ given.a, atol=2e-6)


def test_huge_logits_do_not_overflow_the_energy() -> None:
    loud = tiny.backbone(tiny.numbers(gain=1e4))

    outputs = run(seal(loud, tiny.SPEC, tiny.head()), images(8))

    # exp() overflows on these values if the peak is not subtracted first.
    expected = energy_score(outputs.logits, 0.5)
    np.testing.assert_allclose(outputs.scores[:, 0], expected, rtol=1e-6)


def test_a_batch_gives_the_values_of_its_single_images() -> None:
    sealed = seal(tiny.backbone(tiny.numbers()), tiny.SPEC, tiny.head())
    alone = run(sealed, images(5))
    session = ort.InferenceSession(sealed, providers=["CPUExecutionProvider"])

    together = session.run(list(OUTPUTS), {"pixels": np.stack(images(5))})

    for name, column in zip(OUTPUTS, together, strict=True):
        np.testing.assert_allclose(column, getattr(alone, name), rtol=1e-5, atol=1e-6)


def test_the_sealed_graph_has_the_contracts_inputs_and_outputs() -> None:
    sealed = onnx.load(io.BytesIO(seal(tiny.backbone(tiny.numbers()), tiny.SPEC, tiny.head())))
    session = ort.InferenceSession(sealed.SerializeToString(), providers=["CPUExecutionProvider"])

    described = [(v.name, v.type, v.shape) for v in session.get_inputs() + session.get_outputs()]

    assert described == [
        ("pixels", "tensor(uint8)", ["batch", tiny.SIDE, tiny.SIDE, 3]),
        ("logits", "tensor(float)", ["batch", tiny.CLASSES]),
        ("features", "tensor(float)", ["batch", tiny.WIDTH]),
        ("scores", "tensor(float)", ["batch", 2]),
        ("nearest_class", "tensor(int64)", ["batch"]),
    ]
    assert "ReduceLogSumExp" not in {node.op_type for node in sealed.graph.node}


def test_the_same_parts_give_the_same_bytes() -> None:
    first, second = (
        seal(tiny.backbone(tiny.numbers()), tiny.SPEC, tiny.head(whiten=True)) for _ in range(2)
    )

    assert first == second


def test_an_exporters_traces_are_left_out() -> None:
    sealed = seal(tiny.backbone(tiny.numbers()), tiny.SPEC, tiny.head())

    assert b"exporter/x.py" not in sealed


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_backbones_of_several_opsets_are_sealed(opset: int) -> None:
    head = tiny.head(whiten=True)

    outputs = run(seal(tiny.backbone(tiny.numbers(), opset=opset), tiny.SPEC, head), images(2))

    check_against_float64(outputs, head)


def test_a_graph_with_another_temperature_is_caught() -> None:
    outputs = run(seal(tiny.backbone(tiny.numbers()), tiny.SPEC, tiny.head()), images(2))
    outputs.scores[1, 0] += np.float32(1e-3)

    with pytest.raises(BuildRefused, match="differ from float64"):
        check_against_float64(outputs, tiny.head())


@pytest.mark.parametrize(
    ("backbone", "reason"),
    [
        (tiny.backbone(tiny.numbers(), opset=12), "opset"),
        (tiny.backbone(tiny.numbers(), entry="pixels"), "pixels"),
        (tiny.backbone(tiny.numbers(), entry="tidegate/x"), "tidegate/x"),
        (tiny.backbone(tiny.numbers(), batch=1), "input is"),
    ],
    ids=["old opset", "reserved name", "reserved prefix", "fixed batch"],
)
def test_a_backbone_that_cannot_be_sealed_is_refused(
    backbone: onnx.ModelProto, reason: str
) -> None:
    with pytest.raises(BuildRefused, match=reason):
        seal(backbone, tiny.SPEC, tiny.head())


def test_a_gate_for_another_number_of_classes_is_refused() -> None:
    head = tiny.head()
    fewer = type(head)(head.energy_temperature, head.centre, None, head.means[:-1], normalise=True)

    with pytest.raises(BuildRefused, match="4 classes"):
        seal(tiny.backbone(tiny.numbers()), tiny.SPEC, fewer)


def test_a_backbone_without_features_is_refused() -> None:
    backbone = tiny.backbone(tiny.numbers())
    del backbone.graph.output[1]

    with pytest.raises(BuildRefused, match="features"):
        seal(backbone, tiny.SPEC, tiny.head())
