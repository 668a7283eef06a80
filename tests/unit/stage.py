"""A service of a folder of tiny models, in this process, for tests of what is served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.unit.bundle.tiny_bundle import Files, put, sound_files
from tidegate.service import lifecycle
from tidegate.service.bundle.store import LABELS
from tidegate.service.engines.config import EngineConfig
from tidegate.service.lifecycle import Service, ServiceConfig
from tidegate.service.metrics import Metrics
from tidegate.service.pipeline import Classification, Upload
from tidegate.service.reload import Reloader
from tidegate.service.serving.serving_file import Place
from tidegate.service.startup import ServingConfig
from tidegate.service.wanted import ModelFolder, Source

PATIENCE_S = 150.0


def seal(root: Path, version: str, files: Files | None = None, name: str = "tiny") -> Path:
    """Write a version whose labels name it."""
    files = files or {**sound_files(), LABELS: f"{version}a\n{version}b\n{version}c\nd\n".encode()}

    def change(fields: dict[str, Any]) -> None:
        fields["name"], fields["version"] = name, version

    return put(root / name / version, files, change)


def serving(root: Path, text: str) -> None:
    (root / "serving.toml").write_text(text)


CANARY = '[tiny]\nstable = "1"\ncanary = { version = "2", share = 0.3 }\n'


@dataclass
class Stage:
    """A started service and what a test needs to look at it."""

    root: Path
    service: Service
    metrics: Metrics

    async def serve(self, text: str) -> dict[str, str]:
        """Write the serving file, reload, and return each model's outcome."""
        serving(self.root, text)
        return {name: done.outcome for name, done in (await self.service.reload()).items()}

    async def classify(self, **how: Any) -> tuple[str, Classification]:
        """Classify one image; return the version that answered, too."""
        chosen = self.service.choose(**how)
        image = (self.root / "tiny/1/golden/grey.png").read_bytes()
        now = time.monotonic()
        result = await chosen.classify(Upload(image, now, now + PATIENCE_S, 1), "r1")
        assert result.predictions[0].label[:-1] in (chosen.served.version, "")
        return chosen.served.version, result

    @property
    def reloader(self) -> Reloader:
        found = self.service._reloader
        assert found is not None
        return found

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


def config(source: Source, **changes: Any) -> ServiceConfig:
    given = {
        "serving": ServingConfig(
            engine=EngineConfig("onnx-cpu", slots=2, threads_per_slot=1, max_batch_size=2),
            max_queue=100,
            default_deadline_s=PATIENCE_S,
            decode_threads=0,
            max_image_pixels=10**6,
            engine_timeout_s=PATIENCE_S,
        ),
        "max_class_series": 10,
        "drift_run_length": 10**6,
        "review": None,
        **changes,
    }
    return ServiceConfig(source=source, **given)


def folder_of_models(root: Path) -> Path:
    """Write versions 1 and 2 of one model, of which 1 is stable; return the folder."""
    for version in ("1", "2"):
        seal(root, version)
    serving(root, '[tiny]\nstable = "1"\n')
    return root


async def until(done: Callable[[], bool]) -> None:
    """Wait for something that happens on another thread."""
    while not done():  # noqa: ASYNC110 - the service has no event for tests
        await asyncio.sleep(0.01)


def play(
    root: Path,
    scenario: Callable[[Stage], Awaitable[None]],
    source: Source | None = None,
    before: Callable[[Service], object] = lambda _: None,
    **changes: Any,
) -> None:
    """Start a service, run the scenario, and close the service; `before` is called first."""

    async def main() -> None:
        metrics = Metrics("test")
        service = Service(config(source or ModelFolder(Place(root), None), **changes), metrics)
        before(service)
        async with asyncio.timeout(2 * PATIENCE_S):
            await service.start()
            try:
                await scenario(Stage(root, service, metrics))
            finally:
                assert await service.close(PATIENCE_S)

    with pytest.MonkeyPatch.context() as patch:  # they take a second each; the images are small
        patch.setattr(lifecycle, "start_decoder_pool", lambda *_: None)
        asyncio.run(main())
