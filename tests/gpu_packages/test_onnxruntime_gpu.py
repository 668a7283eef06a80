"""The real onnxruntime-gpu without a GPU: it lists CUDA, but the service verifies that."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.contract import tiny_graph
from tests.fake_cuda import FakeDevice
from tests.server import DEMO_BUNDLE
from tidegate.service.engines.choose import open_engine
from tidegate.service.engines.config import EngineConfig
from tidegate.service.engines.cuda.open import open_cuda
from tidegate.service.engines.onnxruntime.gpu import (
    OnnxGpuProgram,
    cuda_providers,
    tensorrt_providers,
)
from tidegate.service.engines.open_gpu import GPU_ENGINES
from tidegate.service.errors import EngineUnavailable
from tidegate.service.types import Pixels

pytestmark = [pytest.mark.gpu_packages, pytest.mark.timeout(300)]
ort = pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def without_a_gpu() -> None:
    try:
        open_cuda("cuda-bindings").device_count()
    except EngineUnavailable:
        return
    pytest.skip("there is a GPU: the gpu tests are for it")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_graph.sealed())
    return path


def test_the_package_lists_providers_that_cannot_load() -> None:
    assert {"CUDAExecutionProvider", "TensorrtExecutionProvider"} <= {
        *ort.get_available_providers()
    }


@pytest.mark.parametrize("engine", ["onnx-cuda", "onnx-tensorrt"])
def test_a_session_that_fell_back_to_the_cpu_is_rejected(
    engine: str, model: Path, tmp_path: Path
) -> None:
    """Skips the check for a GPU, as on a host with incompatible CUDA libraries."""
    providers = (
        cuda_providers(0)
        if engine == "onnx-cuda"
        else tensorrt_providers(0, (1, 2), (tiny_graph.SIDE, tiny_graph.SIDE), tmp_path)
    )

    with pytest.raises(EngineUnavailable, match=rf"{engine} (is not available|cannot load)"):
        OnnxGpuProgram(model, engine, providers, FakeDevice())


@pytest.mark.parametrize("engine", GPU_ENGINES)
def test_an_engine_named_without_a_gpu_is_rejected(engine: str, model: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"no GPU to use: cudaGetDeviceCount"):
        open_engine(model, EngineConfig(engine), (1, 2))


def test_auto_uses_the_same_package_s_cpu_and_logs_why(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = EngineConfig(slots=1, threads_per_slot=1, max_batch_size=2)
    with caplog.at_level(logging.DEBUG):
        engine = open_engine(model, config, (1, 2)).engine

    assert engine.info.name == "onnx-cpu"
    assert "using engine onnx-cpu (no GPU available)" in caplog.text
    assert "There is no GPU to use: cudaGetDeviceCount" in caplog.text
    black = Pixels(np.zeros((tiny_graph.SIDE, tiny_graph.SIDE, 3), np.uint8))
    assert engine.run(0, [black]).all_finite() == [True]


@pytest.mark.parametrize(
    ("engine", "words"), [("onnx-cuda", "There is no GPU to use"), ("tensorrt", "no GPU to use")]
)
def test_the_service_does_not_start_with_another_engine_than_the_named_one(
    engine: str, words: str
) -> None:
    environment = {
        **os.environ,
        "TIDEGATE_ENGINE": engine,
        "TIDEGATE_BUNDLE": str(DEMO_BUNDLE),
        "TIDEGATE_PORT": "0",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "tidegate.service", "serve"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert ended.returncode == 1
    assert words in ended.stdout + ended.stderr
