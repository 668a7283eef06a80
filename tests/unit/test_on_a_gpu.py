"""The service on a fake of CUDA with the real ONNX Runtime, until the GPU is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.fake_cuda import FakeCuda
from tests.unit.bundle.tiny_bundle import put, sound_files
from tidegate.service.bundle.golden import Run, check_golden
from tidegate.service.bundle.store import Bundle
from tidegate.service.engines import choose, open_gpu
from tidegate.service.engines.config import EngineConfig
from tidegate.service.engines.cuda.base import Cuda, Device
from tidegate.service.engines.gpu_program import Program
from tidegate.service.engines.onnxruntime.gpu import OnnxGpuProgram
from tidegate.service.engines.onnxruntime.session import Provider
from tidegate.service.engines.open_gpu import EngineRequest, GpuConfig
from tidegate.service.errors import EngineFailed
from tidegate.service.lifecycle import Phase, Service, ServiceConfig
from tidegate.service.metrics import Metrics
from tidegate.service.pipeline import Classification, Upload
from tidegate.service.startup import ServingConfig
from tidegate.service.wanted import OneBundle

pytestmark = pytest.mark.process

PATIENCE_S = 150.0
CPU: list[Provider] = [("CPUExecutionProvider", {})]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return put(tmp_path / "tiny" / "1", sound_files())


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda(devices=2)

    def program(
        request: EngineRequest, config: GpuConfig, cuda: Cuda, device: Device
    ) -> tuple[Program, str]:
        return OnnxGpuProgram(request.model, "onnx-cpu", CPU, device, memory="cpu"), "fake 1"

    monkeypatch.setattr(open_gpu, "open_program_for", program)
    monkeypatch.setattr("tidegate.service.engines.warm_up._TRIAL_S", 0.0005)
    for module in (open_gpu, choose):
        monkeypatch.setattr(module, "open_cuda", lambda binding, **options: fake)
    return fake


def config(bundle: Path, devices: tuple[int, ...] = (0,)) -> ServiceConfig:
    return ServiceConfig(
        source=OneBundle(bundle, None),
        serving=ServingConfig(
            engine=EngineConfig("onnx-cuda", max_batch_size=4, gpu=GpuConfig(devices)),
            max_queue=100,
            default_deadline_s=2.0,
            decode_threads=1,
            max_image_pixels=10**6,
            engine_timeout_s=PATIENCE_S,
        ),
        max_class_series=10,
        drift_run_length=10**6,
        review=None,
    )


def serving(service: Service, play: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await service.start()
            await play()
            await service.close(PATIENCE_S)

    asyncio.run(main())


async def classify(service: Service, bundle: Path) -> Classification:
    now = time.monotonic()
    image = (bundle / "golden/grey.png").read_bytes()
    return await service.choose().served.pipeline.classify(Upload(image, now, now + PATIENCE_S, 1))


def test_a_photo_is_classified_and_the_metrics_name_the_device(
    bundle: Path, cuda: FakeCuda
) -> None:
    metrics = Metrics("test")
    service = Service(config(bundle), metrics)

    async def play() -> None:
        answer = await classify(service, bundle)

        assert answer.batch_size == 1
        text = metrics.render().decode()
        assert 'device="cuda:0 Fake GPU"' in text
        assert 'engine="onnx-cuda"' in text
        assert 'tidegate_batch_duration_seconds_count{part="copy_in"} 1.0' in text
        assert service.workers is not None
        assert service.workers.decoders is not None  # the GPU runs the model, so all cores decode

    serving(service, play)
    assert all(device.closed for device in cuda.made)


def test_the_golden_probes_run_on_every_device(
    bundle: Path, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed: list[int] = []

    def check(bundle: Bundle, run: Run, tolerance: float) -> int:
        before = [len(device.calls) for device in cuda.made]
        probes = check_golden(bundle, run, tolerance)
        after = [len(device.calls) for device in cuda.made]
        probed.extend(index for index in range(2) if after[index] > before[index])
        return probes

    monkeypatch.setattr("tidegate.service.startup.check_golden", check)
    service = Service(config(bundle, devices=(0, 1)), Metrics("test"))

    async def play() -> None:
        assert service.choose().served.lane.limits.side_by_side == 2

    serving(service, play)
    assert probed == [0, 1]


def test_a_lost_gpu_fails_the_service(bundle: Path, cuda: FakeCuda) -> None:
    service = Service(config(bundle), Metrics("test"))

    async def play() -> None:
        await classify(service, bundle)
        cuda.made[0].lost = True

        with pytest.raises(EngineFailed):
            await classify(service, bundle)
        await service.failed.wait()

        assert service.phase is Phase.FAILED
        assert "lost its device" in service.failure
        assert "CUDA error 700" in service.failure
        cuda.made[0].lost = False  # so that this test can close it

    serving(service, play)
