"""The start and the end of a service: golden probes, threads and timeouts."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.unit.bundle.signing_keys import private_key, public_key
from tests.unit.bundle.tiny_bundle import put, sound_files
from tidegate.service import bundle_reference, lifecycle, startup
from tidegate.service.batching.scheduler import Scheduler
from tidegate.service.bundle.store import read_embedding
from tidegate.service.drift import state
from tidegate.service.engines.base import TopUp
from tidegate.service.engines.config import EngineConfig, WarmEngine
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.errors import BundleRefused
from tidegate.service.imaging.decoder_pool import DecoderPool
from tidegate.service.lifecycle import Service, ServiceConfig
from tidegate.service.metrics import Metrics
from tidegate.service.settings import Settings
from tidegate.service.startup import ServingConfig
from tidegate.service.types import Outputs, Pixels, Priority
from tidegate.service.wanted import OneBundle

pytestmark = pytest.mark.process

ALONE_S = 0.005


class Noted(OnnxEngine):
    """Counts its calls, and can return different outputs."""

    ran, closed, wrong_by = 0, False, 0.0

    def run(self, slot: int, images: Sequence[Pixels], top_up: TopUp | None = None) -> Outputs:
        self.ran += 1
        outputs = super().run(slot, images, top_up)
        return replace(outputs, logits=outputs.logits + np.float32(self.wrong_by))

    def close(self) -> None:
        self.closed = True
        super().close()


def service_with(
    all_cores_engine: Noted,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    drift_state: Path | None = None,
) -> Service:
    warm = WarmEngine(
        OnnxEngine(bundle / "model.onnx", slots=2), {1: 0.01}, all_cores_engine, ALONE_S
    )
    monkeypatch.setattr(startup, "open_engine", lambda *_: warm)
    config = ServiceConfig(
        source=OneBundle(bundle, drift_state),
        serving=ServingConfig(
            engine=EngineConfig(),
            max_queue=10,
            default_deadline_s=2.0,
            decode_threads=0,
            max_image_pixels=10**6,
            engine_timeout_s=60.0,
        ),
        max_class_series=10,
        drift_run_length=10**6,
        review=None,
    )
    return Service(config, Metrics("test"))


def test_the_all_cores_engine_passes_the_golden_probes_is_used_and_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = put(tmp_path, sound_files())
    all_cores_engine = Noted(bundle / "model.onnx")

    async def scenario() -> None:
        service = service_with(all_cores_engine, bundle, monkeypatch)
        await service.start()
        probed = all_cores_engine.ran
        assert probed > 0
        assert service.workers is not None
        scheduler, lane = service.workers.scheduler, service.choose().served.lane
        assert lane.latency.single_image_s == ALONE_S
        ticket = scheduler.admit(lane, deadline=float("inf"), priority=Priority.INTERACTIVE)
        height, width = all_cores_engine.input_size
        await scheduler.submit(ticket, Pixels(np.zeros((height, width, 3), np.uint8)))
        assert all_cores_engine.ran == probed + 1
        assert await service.close(60.0)

    asyncio.run(scenario())

    assert all_cores_engine.closed


def test_an_all_cores_engine_with_other_answers_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = put(tmp_path, sound_files())
    all_cores_engine = Noted(bundle / "model.onnx")
    all_cores_engine.wrong_by = 0.1

    with pytest.raises(BundleRefused, match="the engine's logits for"):
        asyncio.run(service_with(all_cores_engine, bundle, monkeypatch).start())


def test_a_service_with_trusted_keys_does_not_start_with_an_unsigned_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = put(tmp_path / "bundle", sound_files())
    key = private_key(tmp_path / "key.pem")
    trusted = public_key(tmp_path / "trusted" / "key.pem", key).parent
    monkeypatch.setenv("TIDEGATE_TRUSTED_KEYS", f"{trusted}")
    config = Settings.read({"bundle": f"{bundle}"}).service_config()

    with pytest.raises(BundleRefused, match="is not signed"):
        asyncio.run(Service(config, Metrics("test")).start())


def test_a_drift_watch_that_ends_fails_the_service_and_a_failing_one_makes_it_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = put(tmp_path, sound_files())

    async def scenario() -> None:
        service = service_with(Noted(bundle / "model.onnx"), bundle, monkeypatch)
        await service.start()
        served = service.catalog.model("").stable
        watch, watching = served.watch, served.watching
        assert watching is not None

        watch.failure = "Drift is not monitored: ValueError: broken"
        assert service.unready_reason == watch.failure
        watching.cancel()
        async with asyncio.timeout(60.0):
            await service.failed.wait()

        assert service.failure.startswith("drift monitoring ended unexpectedly")
        assert await service.close(60.0)

    asyncio.run(scenario())


def test_files_and_processes_do_not_block_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = put(tmp_path, sound_files())
    on_threads: dict[str, bool] = {}

    def noted(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*arguments: Any) -> Any:
            on_threads[name] = threading.current_thread() is not threading.main_thread()
            return act(*arguments)

        return noting

    monkeypatch.setattr(bundle_reference, "read_embedding", noted("embedding", read_embedding))
    monkeypatch.setattr(state, "load", noted("state", state.load))
    monkeypatch.setattr(DecoderPool, "close", noted("pool", DecoderPool.close))

    async def scenario() -> None:
        all_cores_engine = Noted(bundle / "model.onnx")
        service = service_with(
            all_cores_engine, bundle, monkeypatch, drift_state=tmp_path / "state.npz"
        )
        await service.start()
        assert await service.close(60.0)

    asyncio.run(scenario())

    assert on_threads == {"embedding": True, "state": True, "pool": True}


def test_all_of_closing_has_one_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = put(tmp_path, sound_files())
    looks = itertools.count(0.0, 4.0)
    given: list[float] = []
    close = Scheduler.close

    def noting(scheduler: Scheduler, timeout_s: float) -> bool:
        given.append(timeout_s)
        return close(scheduler, 60.0)

    monkeypatch.setattr(Scheduler, "close", noting)

    async def scenario() -> None:
        service = service_with(Noted(bundle / "model.onnx"), bundle, monkeypatch)
        await service.start()
        # Four seconds pass between two readings of the clock.
        monkeypatch.setattr(lifecycle, "time", SimpleNamespace(monotonic=lambda: next(looks)))
        assert await service.close(10.0)

    asyncio.run(scenario())

    assert given == [2.0]
