"""An engine for images that are alone is proved like the other, and closed with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service import lifecycle
from service.engines.base import More
from service.engines.choose import EngineConfig, WarmEngine
from service.engines.onnx import OnnxEngine
from service.errors import BundleRefused
from service.lifecycle import Service, ServiceConfig
from service.metrics import Metrics
from service.types import Outputs, Pixels, Priority
from tests.unit.bundle.tiny_bundle import put, sound_files

ALONE_S = 0.005


class Noted(OnnxEngine):
    """Counts what it was asked, and may compute something else."""

    ran, closed, wrong_by = 0, False, 0.0

    def run(self, slot: int, images: Sequence[Pixels], more: More | None = None) -> Outputs:
        self.ran += 1
        outputs = super().run(slot, images, more)
        return replace(outputs, logits=outputs.logits + np.float32(self.wrong_by))

    def close(self) -> None:
        self.closed = True
        super().close()


def service_with(wide: Noted, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    warm = WarmEngine(OnnxEngine(bundle / "model.onnx", slots=2), {1: 0.01}, wide, ALONE_S)
    monkeypatch.setattr(lifecycle, "open_engine", lambda *_: warm)
    config = ServiceConfig(
        bundle=bundle,
        engine=EngineConfig(),
        max_queue=10,
        decode_threads=0,
        max_image_pixels=10**6,
        engine_timeout_s=60.0,
        max_class_series=10,
        drift_run_length=10**6,
        drift_state=None,
        review=None,
    )
    return Service(config, Metrics("test"))


def test_it_passes_the_golden_probes_is_used_and_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = put(tmp_path, sound_files())
    wide = Noted(bundle / "model.onnx")

    async def scenario() -> None:
        service = service_with(wide, bundle, monkeypatch)
        await service.start()
        probed = wide.ran
        assert probed > 0
        scheduler = service.require().scheduler
        assert scheduler.latency.alone_s == ALONE_S
        ticket = scheduler.admit(deadline=float("inf"), priority=Priority.INTERACTIVE)
        height, width = wide.input_size
        await scheduler.submit(ticket, Pixels(np.zeros((height, width, 3), np.uint8)))
        assert wide.ran == probed + 1
        assert await service.close(60.0)

    asyncio.run(scenario())

    assert wide.closed


def test_one_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = put(tmp_path, sound_files())
    wide = Noted(bundle / "model.onnx")
    wide.wrong_by = 0.1

    with pytest.raises(BundleRefused, match="the engine's logits for"):
        asyncio.run(service_with(wide, bundle, monkeypatch).start())


def test_a_drift_watch_that_ends_is_a_failure_and_a_failing_one_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = put(tmp_path, sound_files())

    async def scenario() -> None:
        service = service_with(Noted(bundle / "model.onnx"), bundle, monkeypatch)
        await service.start()
        watch, watching = service._watch, service._watching
        assert watch is not None
        assert watching is not None

        watch.failure = "Drift is not monitored: ValueError: broken"
        assert service.unready_reason == watch.failure
        watching.cancel()
        async with asyncio.timeout(60.0):
            await service.failed.wait()

        assert service.failure.startswith("drift monitoring ended unexpectedly")
        assert await service.close(60.0)

    asyncio.run(scenario())
