"""The real TensorRT-RTX builds real plans without a GPU.

Unlike TensorRT it can build without one, with the same Python API. The gpu tests run its plans.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.contract import tiny_graph
from tests.server import DEMO_BUNDLE
from tidegate.models.demo.spec import PREPROCESS
from tidegate.models.graphs.names import OUTPUTS
from tidegate.models.parity.preprocessing import normalised
from tidegate.models.precision.fp16 import to_fp16
from tidegate.models.precision.int8 import to_int8
from tidegate.models.probes.photographs import PHOTOS
from tidegate.models.sealing.gate_head import GateHead
from tidegate.models.sealing.seal import seal
from tidegate.models.sealing.unseal import unseal
from tidegate.service.engines.tensorrt.build import build_flags, build_plan, parsed
from tidegate.service.engines.tensorrt.plan_cache import PlanCache, PlanKey
from tidegate.service.engines.tensorrt.program import Toolkit, ensure_plan, open_toolkit
from tidegate.service.errors import EngineUnavailable
from tidegate.service.imaging.preprocess import preprocess

pytestmark = [pytest.mark.gpu_packages, pytest.mark.timeout(600)]
Floats = np.ndarray[Any, np.dtype[np.float32]]
BUCKETS = (1, 2, 4, 8)


@pytest.fixture(scope="module")
def toolkit() -> Toolkit:
    return open_toolkit("tensorrt-rtx")


@pytest.fixture(scope="module")
def photos() -> Floats:
    return np.stack(
        [
            normalised(preprocess(path.read_bytes(), PREPROCESS, 10**8), PREPROCESS)
            for path in PHOTOS
        ]
    ).astype(np.float32)


def test_an_execution_has_the_methods_that_are_used(toolkit: Toolkit) -> None:
    """Without a GPU no engine can be created, so only the names are checked."""
    assert toolkit.trt.DynamicShapesKernelSpecializationStrategy.EAGER is not None
    assert hasattr(toolkit.trt.ICudaEngine, "create_runtime_config")
    assert hasattr(toolkit.trt.IRuntimeConfig, "dynamic_shapes_kernel_specialization_strategy")
    assert hasattr(toolkit.trt.IRuntimeConfig, "set_execution_context_allocation_strategy")
    assert toolkit.trt.ExecutionContextAllocationStrategy.USER_MANAGED is not None
    assert hasattr(toolkit.trt.IExecutionContext, "set_device_memory")
    assert hasattr(toolkit.trt.IExecutionContext, "set_optimization_profile_async")
    assert hasattr(toolkit.trt.ICudaEngine, "get_tensor_profile_shape")


def as_it_is(backbone: onnx.ModelProto, photos: Floats) -> onnx.ModelProto:
    return backbone


def in_fp16(backbone: onnx.ModelProto, photos: Floats) -> onnx.ModelProto:
    return to_fp16(backbone, photos)


def in_int8(backbone: onnx.ModelProto, photos: Floats) -> onnx.ModelProto:
    return to_int8(backbone, [photos], "tensorrt")


def for_a_cpu(backbone: onnx.ModelProto, photos: Floats) -> onnx.ModelProto:
    return to_int8(backbone, [photos])


def demo(
    folder: Path, photos: Floats, change: Callable[[onnx.ModelProto, Floats], onnx.ModelProto]
) -> Path:
    """Seal the demo's real backbone in another precision, with a gate head in float32."""
    backbone = change(unseal((DEMO_BUNDLE / "model.onnx").read_bytes()), photos)
    head = demo_sized_head()
    path = folder / "model.onnx"
    path.write_bytes(seal(backbone, PREPROCESS, head))
    return path


def demo_sized_head() -> GateHead:
    rng = np.random.default_rng(0)
    return GateHead(
        energy_temperature=0.5,
        centre=rng.normal(size=1280),
        whitening=rng.normal(size=(1280, 64)),
        means=rng.normal(size=(1000, 64)),
        normalise=True,
    )


def test_the_module_has_the_names_that_the_build_uses(toolkit: Toolkit) -> None:
    assert toolkit.version.startswith("TensorRT-RTX 1.")
    assert build_flags(toolkit.trt) == (
        "no-tf32",
        "optimisation=3",
        "small-batches=4",
        "strongly-typed",
    )


@pytest.mark.parametrize("change", [as_it_is, in_fp16, in_int8])
def test_real_weights_become_a_plan_of_every_output(
    change: Callable[[onnx.ModelProto, Floats], onnx.ModelProto],
    toolkit: Toolkit,
    photos: Floats,
    tmp_path: Path,
) -> None:
    model = demo(tmp_path, photos, change)
    steps: list[tuple[str, int, int]] = []

    plan, _ = build_plan(
        toolkit.trt,
        toolkit.logger,
        model,
        BUCKETS,
        timing=None,
        progress=lambda *step: steps.append(step),
    )

    assert len(plan) > model.stat().st_size / 2
    assert steps[-1][1] == steps[-1][2] > 0


@pytest.mark.parametrize("change", [as_it_is, in_fp16, in_int8])
def test_the_network_accepts_bytes_in_batches_of_any_size_and_returns_float32(
    change: Callable[[onnx.ModelProto, Floats], onnx.ModelProto],
    toolkit: Toolkit,
    photos: Floats,
    tmp_path: Path,
) -> None:
    trt = toolkit.trt
    _builder, network, _parser = parsed(trt, toolkit.logger, demo(tmp_path, photos, change))

    pixels = network.get_input(0)
    assert (pixels.name, pixels.dtype, tuple(pixels.shape)) == (
        "pixels",
        trt.DataType.UINT8,
        (-1, 224, 224, 3),
    )
    outputs = {
        network.get_output(index).name: network.get_output(index)
        for index in range(network.num_outputs)
    }
    assert set(outputs) == set(OUTPUTS)
    assert outputs["nearest_class"].dtype == trt.DataType.INT64
    for name in ("logits", "features", "scores"):
        assert outputs[name].dtype == trt.DataType.FLOAT
        assert outputs[name].shape[0] == -1


def test_the_gates_head_is_float32_between_a_backbone_in_fp16_and_its_outputs(
    toolkit: Toolkit, photos: Floats, tmp_path: Path
) -> None:
    trt = toolkit.trt
    _builder, network, _parser = parsed(trt, toolkit.logger, demo(tmp_path, photos, in_fp16))
    layers = [network.get_layer(index) for index in range(network.num_layers)]

    kinds = {
        layer.get_output(index).dtype
        for layer in layers
        if layer.name.startswith("tidegate/")
        for index in range(layer.num_outputs)
    }

    assert trt.DataType.HALF not in kinds
    assert any(layer.get_output(0).dtype == trt.DataType.HALF for layer in layers)


def test_int8_for_cpus_is_rejected_with_advice(
    toolkit: Toolkit, photos: Floats, tmp_path: Path
) -> None:
    model = demo(tmp_path, photos, for_a_cpu)

    with pytest.raises(EngineUnavailable, match=r"cannot read .*DequantizeLinear.*--int8-for"):
        build_plan(toolkit.trt, toolkit.logger, model, BUCKETS, timing=None)


def test_an_invalid_model_is_rejected(toolkit: Toolkit, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"not a model")

    with pytest.raises(EngineUnavailable, match=r"cannot read .*model\.onnx"):
        build_plan(toolkit.trt, toolkit.logger, model, BUCKETS, timing=None)


def test_a_plan_goes_into_the_cache_and_is_not_built_twice(
    toolkit: Toolkit, tmp_path: Path
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(tiny_graph.sealed())
    cache = PlanCache(tmp_path / "plans")
    key = PlanKey("ab", toolkit.version, "13", "none", "0.0", "fp32", BUCKETS, ())

    plan = ensure_plan(toolkit, cache, key, model)
    model.unlink()

    assert ensure_plan(toolkit, cache, key, model) == plan
