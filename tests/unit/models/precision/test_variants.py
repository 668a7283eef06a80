from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.unit.models import tiny
from tidegate.models.errors import BuildRefused
from tidegate.models.evaluation.speed import cpu_ms_per_image
from tidegate.models.graphs.engine_mark import engine_of
from tidegate.models.graphs.names import PREFIX
from tidegate.models.graphs.openvino_session import OpenVinoSession, check_openvino
from tidegate.models.graphs.session import quiet_session
from tidegate.models.precision import int8
from tidegate.models.precision.activations import observe
from tidegate.models.precision.bf16 import to_bf16
from tidegate.models.precision.fp16 import TOLERANCE, to_fp16
from tidegate.models.precision.int8 import sums_saturate, to_int8
from tidegate.models.sealing.check import run
from tidegate.models.sealing.seal import seal
from tidegate.models.sealing.unseal import unseal
from tidegate.service.engines.openvino import runtime
from tidegate.service.types import Pixels

CHANNELS = 16
Float32 = NDArray[np.float32]


def conv_net(opset: int = 17, gain: float = 1.0) -> onnx.ModelProto:
    """Stem, depthwise, 1×1 with a shortcut, pooling, linear: a MobileNet of a few numbers."""
    rng = np.random.default_rng(0)
    shapes = {
        "stem": (CHANNELS, 3, 3, 3),
        "depth": (CHANNELS, 1, 3, 3),
        "point": (CHANNELS, CHANNELS, 1, 1),
        "last": (tiny.WIDTH, CHANNELS, 1, 1),
        "w": (tiny.CLASSES, tiny.WIDTH),
    }
    constants: dict[str, NDArray[np.floating]] = {"zero": np.array(0.0), "six": np.array(6.0)}
    for name, shape in shapes.items():
        constants[name] = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        constants[name + ".b"] = rng.normal(size=shape[0]) / 4
    constants["w"] = gain * constants["w"]
    nodes = [
        helper.make_node("Conv", ["input", "stem", "stem.b"], ["a"], pads=[1] * 4),
        helper.make_node("Clip", ["a", "zero", "six"], ["b"]),
        helper.make_node("Conv", ["b", "depth", "depth.b"], ["c"], pads=[1] * 4, group=CHANNELS),
        helper.make_node("Clip", ["c", "zero", "six"], ["d"]),
        helper.make_node("Conv", ["d", "point"], ["e"]),
        helper.make_node("Add", ["e", "d"], ["f"]),
        helper.make_node("Conv", ["f", "last", "last.b"], ["g"]),
        helper.make_node("Relu", ["g"], ["h"]),
        helper.make_node("GlobalAveragePool", ["h"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "w", "w.b"], ["logits"], transB=1),
    ]
    outer = tiny.backbone(tiny.numbers(), opset=opset)
    del outer.graph.node[:], outer.graph.initializer[:]
    outer.graph.node.extend(nodes)
    outer.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value, np.float32), name)
        for name, value in constants.items()
    )
    return outer


def images(count: int, seed: int = 0) -> Float32:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 3, tiny.SIDE, tiny.SIDE)).astype(np.float32)


def half(backbone: onnx.ModelProto) -> onnx.ModelProto:
    return to_fp16(backbone, images(4))


def brain(backbone: onnx.ModelProto) -> onnx.ModelProto:
    return to_bf16(backbone)


def eighth(backbone: onnx.ModelProto) -> onnx.ModelProto:
    return to_int8(backbone, [images(8, seed) for seed in range(4)])


def eighth_for_tensorrt(backbone: onnx.ModelProto) -> onnx.ModelProto:
    return to_int8(backbone, [images(8, seed) for seed in range(4)], "tensorrt")


def eighth_for_openvino(backbone: onnx.ModelProto) -> onnx.ModelProto:
    return to_int8(backbone, [images(8, seed) for seed in range(4)], "openvino")


NAMES = ["bf16", "fp16", "int8", "int8 for TensorRT"]
ALL = pytest.mark.parametrize("variant", [brain, half, eighth, eighth_for_tensorrt], ids=NAMES)
Variant = Callable[[onnx.ModelProto], onnx.ModelProto]


def outputs(model: onnx.ModelProto, batch: Float32) -> list[Float32]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(v) for v in session.run(["logits", "features"], {"input": batch})]


@ALL
def test_a_variant_keeps_the_contract_of_a_backbone(variant: Variant) -> None:
    graph = variant(conv_net()).graph

    described = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    kinds = {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
    assert kinds == {TensorProto.FLOAT}
    assert described == {
        "input": ["batch", 3, tiny.SIDE, tiny.SIDE],
        "logits": ["batch", tiny.CLASSES],
        "features": ["batch", tiny.WIDTH],
    }


@pytest.mark.parametrize(
    ("variant", "tolerance"),
    [(brain, TOLERANCE), (half, TOLERANCE), (eighth, 0.05), (eighth_for_tensorrt, 0.05)],
    ids=NAMES,
)
def test_a_variant_s_logits_are_close_to_those_of_fp32(variant: Variant, tolerance: float) -> None:
    batch = images(64, seed=99)

    got, expected = outputs(variant(conv_net()), batch), outputs(conv_net(), batch)

    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@ALL
def test_a_variant_gives_a_batch_the_values_of_its_single_images(variant: Variant) -> None:
    model, batch = variant(conv_net()), images(8, seed=5)

    together = outputs(model, batch)
    alone = [outputs(model, image[None]) for image in batch]

    for index, column in enumerate(together):
        singles = np.concatenate([row[index] for row in alone])
        # Sums of float32 in another order; int8's are exact between its float ends.
        np.testing.assert_allclose(column, singles, rtol=1e-5, atol=1e-5)


@ALL
def test_the_head_of_a_sealed_variant_computes_in_float32(variant: Variant) -> None:
    model = onnx.load_model_from_string(seal(variant(conv_net()), tiny.SPEC, tiny.head()))
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph

    kinds = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    kinds |= {item.name: item.data_type for item in inferred.initializer}
    ours = [node for node in inferred.node if node.name.startswith(PREFIX)]
    touched = {
        kinds[name] for node in ours for name in (*node.input, *node.output) if name in kinds
    }
    assert ours
    assert touched <= {TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64}
    assert {"QuantizeLinear", "DequantizeLinear"}.isdisjoint(node.op_type for node in ours)


@pytest.mark.parametrize(
    "variant",
    [pytest.param(brain, marks=pytest.mark.openvino), half, eighth, eighth_for_tensorrt],
    ids=NAMES,
)
def test_a_sealed_variant_runs_and_is_timed(variant: Variant) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, tiny.SIDE, tiny.SIDE, 3), dtype=np.uint8)
    sealed = seal(variant(conv_net()), tiny.SPEC, tiny.head())

    times = cpu_ms_per_image({"fp32": sealed, "other": sealed}, pixels, batch=2, rounds=3)

    assert np.isfinite(run(sealed, [Pixels(pixels[0])]).scores).all()
    assert times.keys() == {"fp32", "other"}
    assert min(times.values()) > 0


@ALL
def test_the_same_inputs_give_the_same_bytes_and_leave_nothing_behind(
    variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    backbone = conv_net()
    before = backbone.SerializeToString(deterministic=True)

    first, second = (variant(backbone).SerializeToString(deterministic=True) for _ in range(2))

    assert first == second
    assert backbone.SerializeToString(deterministic=True) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opset", [13, 18, 21])
@ALL
def test_backbones_of_several_opsets_have_variants(variant: Variant, opset: int) -> None:
    batch = images(16)

    got, expected = outputs(variant(conv_net(opset)), batch), outputs(conv_net(opset), batch)

    np.testing.assert_allclose(got[0], expected[0], atol=0.05 * np.abs(expected[0]).max())


def test_int8_computes_in_int8_but_for_a_mobile_stem_and_the_pooled_features() -> None:
    graph = eighth(conv_net()).graph
    makers = {name: node for node in graph.node for name in node.output}

    from_int8 = [
        makers[node.input[1]].op_type if node.input[1] in makers else "constant"
        for node in graph.node
        if node.op_type in ("Conv", "Gemm")
    ]

    assert from_int8 == ["constant"] * 2 + ["DequantizeLinear"] * 3
    assert makers["features"].op_type == "Flatten"
    assert makers["logits"].op_type == "Gemm"


def test_int8_weights_are_symmetric_and_per_channel() -> None:
    graph = eighth(conv_net()).graph
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}

    weights = [
        node.input
        for node in graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in constants
        and constants[node.input[0]].dtype == np.int8
    ]

    assert len(weights) == 3
    for levels, scale, zero in weights:
        assert constants[scale].shape == (len(constants[levels]),)
        assert not constants[zero].any()


def test_int8_for_tensorrt_has_zero_points_of_zero_and_biases_in_float32() -> None:
    graph = eighth_for_tensorrt(conv_net()).graph

    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    ends = [n for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert ends
    for node in ends:
        zero_point = constants[node.input[2]]
        assert zero_point.dtype == np.int8
        assert not zero_point.any()
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert all(constants[node.input[2]].dtype == np.float32 for node in convolutions)


@pytest.mark.parametrize("variant", [eighth, eighth_for_tensorrt])
def test_the_mean_of_int8s_outputs_is_that_of_fp32(variant: Variant) -> None:
    # What the bias correction is for: without it this fails.
    batches = np.concatenate([images(8, seed) for seed in range(4)])

    (got, _), (expected, _) = outputs(variant(conv_net()), batches), outputs(conv_net(), batches)

    short_of_a_bit = variant is eighth and sums_saturate()
    moved = np.abs((got - expected).mean(axis=0)).max() / np.abs(expected).max()
    assert moved < (0.004 if short_of_a_bit else 0.002)


def test_calibration_sees_batches_of_any_size_alike() -> None:
    batch = images(12)

    once = observe(conv_net(), [batch], ["b", "features"])
    split = observe(conv_net(), [batch[:1], batch[1:5], batch[5:]], ["b", "features"])

    assert once.images == split.images == 12
    for name, limits in once.ranges.items():
        np.testing.assert_allclose(limits, split.ranges[name], rtol=1e-5, atol=1e-6)
    for name, mean in once.means.items():
        np.testing.assert_allclose(mean, split.means[name], rtol=1e-5, atol=1e-6)
    assert once.ranges["b"][0] >= 0
    assert once.ranges["b"][1] <= 6


def test_bf16_stores_the_weights_before_the_features_rounded_to_bfloat16() -> None:
    before = {item.name: numpy_helper.to_array(item) for item in conv_net().graph.initializer}

    graph = brain(conv_net()).graph

    stored = {item.name: item for item in graph.initializer}
    rounded = {name for name, item in stored.items() if item.data_type == TensorProto.BFLOAT16}
    assert rounded == {f"{name}/bf16" for name in ("stem", "depth", "point", "last")}
    for name in rounded:
        values = numpy_helper.to_array(stored[name]).astype(np.float32)
        np.testing.assert_allclose(values, before[name.removesuffix("/bf16")], rtol=2**-8)
        assert not (values.view(np.uint32) & 0xFFFF).any()
    assert stored["w"].data_type == TensorProto.FLOAT


def test_int8_for_openvino_is_that_for_onnx_runtime_with_a_mark_that_stays() -> None:
    marked, plain = eighth_for_openvino(conv_net()), eighth(conv_net())
    sealed = seal(marked, tiny.SPEC, tiny.head())

    assert marked.graph == plain.graph
    assert engine_of(plain) is None
    assert engine_of(onnx.load_model_from_string(sealed)) == "openvino"
    assert engine_of(unseal(sealed)) == "openvino"


@pytest.mark.openvino
@pytest.mark.parametrize("variant", [brain, eighth_for_openvino])
def test_a_graph_for_openvino_runs_on_it_while_a_bundle_is_built(variant: Variant) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, tiny.SIDE, tiny.SIDE, 3), np.uint8)
    sealed = seal(variant(conv_net()), tiny.SPEC, tiny.head())
    in_fp32 = seal(conv_net(), tiny.SPEC, tiny.head())

    session, exact = quiet_session(sealed), quiet_session(in_fp32)

    assert isinstance(session, OpenVinoSession)
    assert isinstance(exact, ort.InferenceSession)
    assert [v.name for v in session.get_outputs()] == [v.name for v in exact.get_outputs()]
    (got,), (expected,) = (s.run(["logits"], {"pixels": pixels}) for s in (session, exact))
    assert 0 < np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


def test_a_machine_without_bf16_is_told_so_before_anything_is_fitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # importing it raises ImportError
    runtime.core.cache_clear()

    with pytest.raises(BuildRefused, match=r"with the engine that serves it.*tidegate\[openvino"):
        check_openvino("bf16")


def test_weights_beyond_float16_are_refused() -> None:
    with pytest.raises(BuildRefused, match=r"'w' reach .*out of float16's range"):
        half(conv_net(gain=1e6))


def test_activations_beyond_float16_are_rejected_even_if_the_weights_fit() -> None:
    with pytest.raises(BuildRefused, match=r"tensor .* reaches .*out of float16's range"):
        to_fp16(conv_net(), 1e6 * images(2))


def test_int8_without_images_is_refused() -> None:
    with pytest.raises(BuildRefused, match="at least one batch"):
        to_int8(conv_net(), [])


def test_images_that_are_not_finite_are_refused() -> None:
    with pytest.raises(BuildRefused, match="not finite"):
        to_int8(conv_net(), [images(2), images(2) * np.float32("nan")])


@pytest.mark.parametrize(("saturates", "most"), [(True, 64), (False, 127)])
def test_weights_have_the_bits_whose_sums_the_cpu_keeps(
    monkeypatch: pytest.MonkeyPatch, saturates: bool, most: int
) -> None:
    monkeypatch.setattr(int8, "sums_saturate", lambda: saturates)

    graph = eighth(conv_net()).graph

    weights = [w for w in map(numpy_helper.to_array, graph.initializer) if w.dtype == np.int8]
    assert max(np.abs(w.astype(int)).max() for w in weights if w.ndim > 1) == most


@ALL
def test_a_backbone_without_a_convolution_has_variants(variant: Variant) -> None:
    backbone, batch = tiny.backbone(tiny.numbers()), images(8, seed=3)

    (got, _), (expected, _) = outputs(variant(backbone), batch), outputs(backbone, batch)

    np.testing.assert_allclose(got, expected, atol=0.05 * np.abs(expected).max())
