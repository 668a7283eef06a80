"""ONNX Runtime's GPU providers without a GPU: their options, and the provider of each node."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest

from tests.contract import tiny_graph
from tests.fake_cuda import FakeDevice
from tests.unit.engines.onnxruntime.test_cpu import without_cuda
from tidegate.service.engines.onnxruntime.gpu import (
    OnnxGpuProgram,
    cuda_providers,
    nodes_of,
    refuse_strays,
    sealed_size,
    tensorrt_providers,
)
from tidegate.service.engines.onnxruntime.session import open_session
from tidegate.service.errors import EngineUnavailable

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_graph.sealed())
    return path


def test_cuda_runs_without_tf32_on_the_requested_device() -> None:
    [(name, options)] = cuda_providers(3)

    assert name == CUDA
    assert options["device_id"] == "3"
    assert options["use_tf32"] == "0"


def test_half_precision_keeps_its_tensor_cores() -> None:
    [(_, options)] = cuda_providers(0, "fp16")
    (_, behind) = tensorrt_providers(0, (1,), (224, 224), Path("/plans"), "fp16")

    assert options["use_tf32"] == behind[1]["use_tf32"] == "1"


@pytest.mark.parametrize("own", [True, False])
def test_each_batch_size_has_a_session_if_shape_changes_are_slow(own: bool, model: Path) -> None:
    program = OnnxGpuProgram(
        model, "onnx-cpu", [(CPU, {})], FakeDevice(), memory="cpu", session_per_batch=own
    )

    assert program.session(2) is program.session(2)
    assert not program.can_capture(FakeDevice())
    assert (program.session(2) is not program.session(8)) is own


def test_the_sessions_of_sizes_that_are_given_up_are_closed(model: Path) -> None:
    program = OnnxGpuProgram(
        model, "onnx-cpu", [(CPU, {})], FakeDevice(), memory="cpu", session_per_batch=True
    )
    closed = weakref.ref(program.session(8).session)
    small = program.session(2)

    program.keep(4)

    assert closed() is None
    assert program.session(2) is small


def test_tensorrt_has_one_profile_for_all_batches_and_cuda_as_fallback() -> None:
    (name, options), (behind, _) = tensorrt_providers(1, (1, 2, 8), (224, 192), Path("/plans"))

    assert (name, behind) == ("TensorrtExecutionProvider", CUDA)
    assert options["trt_profile_min_shapes"] == "pixels:1x224x192x3"
    assert options["trt_profile_opt_shapes"] == "pixels:8x224x192x3"
    assert options["trt_profile_max_shapes"] == "pixels:8x224x192x3"
    assert options["trt_engine_cache_path"] == "/plans"
    # Either flag would make the network weakly typed, and round the gate's head.
    assert not {"trt_fp16_enable", "trt_int8_enable"} & options.keys()


def test_the_input_size_is_read_from_the_graph(model: Path) -> None:
    assert sealed_size(model) == (tiny_graph.SIDE, tiny_graph.SIDE)


def test_a_real_session_records_the_provider_of_each_node(model: Path) -> None:
    record = {"session.record_ep_graph_assignment_info": "1"}
    nodes = nodes_of(open_session(model, "onnx-cpu", [(CPU, {})], record))

    assert (CPU, "Conv") in nodes
    assert {provider for provider, _ in nodes} == {CPU}


def test_heavy_operators_on_the_cpu_are_rejected_and_shapes_are_not() -> None:
    refuse_strays("onnx-cuda", [(CUDA, "Conv"), (CPU, "Shape"), (CPU, "Gather")])

    with pytest.raises(EngineUnavailable, match="onnx-cuda would run Conv, Gemm"):
        refuse_strays("onnx-cuda", [(CPU, "Gemm"), (CPU, "Conv"), (CUDA, "MatMul")])


@without_cuda
def test_a_missing_provider_is_reported_with_the_conflicting_package(model: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"pip uninstall onnxruntime, then .*\[gpu\]"):
        OnnxGpuProgram(model, "onnx-cuda", cuda_providers(0), FakeDevice())
