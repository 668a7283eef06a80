"""A real GPU, or the test is skipped; with --require-gpu it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server import DEMO_BUNDLE
from tidegate.service.engines.cuda.base import Cuda
from tidegate.service.engines.cuda.open import open_cuda
from tidegate.service.engines.gpu_engine import DeviceEngine
from tidegate.service.engines.open_gpu import GPU_ENGINES, EngineRequest, GpuConfig, open_gpu_engine
from tidegate.service.errors import EngineUnavailable

BUCKETS = (1, 2, 4, 8, 16)
Opened = Callable[..., DeviceEngine]


@pytest.fixture(scope="session")
def cuda() -> Cuda:
    try:
        found = open_cuda("cuda-bindings")
        found.device_count()
    except EngineUnavailable as error:
        pytest.skip(str(error))
    return found


@pytest.fixture(scope="session")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of plans for all tests, because a build is slow."""
    return tmp_path_factory.mktemp("plans") / "plans"


@pytest.fixture(params=GPU_ENGINES, scope="module")
def opened(request: pytest.FixtureRequest, cuda: Cuda, plans: Path) -> Iterator[Opened]:
    """Return a function that opens the demo, or another sealed graph, on one of the engines."""
    engines: list[DeviceEngine] = []

    def open_it(
        model: Path = DEMO_BUNDLE / "model.onnx", *, slots: int = 3, precision: str = "fp32"
    ) -> DeviceEngine:
        wanted = EngineRequest(model, request.param, BUCKETS, precision)
        try:
            engine = open_gpu_engine(wanted, GpuConfig(plan_cache=plans), slots)
        except EngineUnavailable as error:
            pytest.skip(str(error))
        assert isinstance(engine, DeviceEngine)
        engines.append(engine)
        return engine

    yield open_it
    for engine in engines:
        engine.close()


@pytest.fixture(scope="module")
def engine(opened: Opened) -> DeviceEngine:
    return opened()
