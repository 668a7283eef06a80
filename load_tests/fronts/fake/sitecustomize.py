"""Replaces the engine of a measured server by a fake one, and decoding by nothing if asked to.

Python imports it in every process that has this folder on its PYTHONPATH. It changes the service by
name, because load tests import nothing of it.

    FAKE_ENGINE=1     3 slots that sleep 0.3 + 0.013·b ms a batch, and copy each image once
    FAKE_DECODING=1   every image is the same pixels
"""

import importlib
import os
import sys
import time
from typing import Any

_MODULES = ("tidegate.service", "tidegate.service.front")
_BUCKETS = (1, 2, 4, 8, 16, 32, 64)


class FakeEngine:
    """Takes time, but none of a core."""

    slots = 3
    max_batch_size = _BUCKETS[-1]
    all_slots_share_a_device = 0

    def __init__(self, bundle: Any) -> None:
        np = importlib.import_module("numpy")
        base = importlib.import_module("tidegate.service.engines.base")
        types = importlib.import_module("tidegate.service.types")
        task = bundle.manifest.task
        self._outputs = types.Outputs
        self.info = base.EngineInfo("fake", "a fake engine", "cuda:0", "fp32", 1)
        self.input_size = (task.height, task.width)
        shape = (self.slots, self.max_batch_size, task.height, task.width, 3)
        self._staging = np.empty(shape, np.uint8)
        rng, rows = np.random.default_rng(0), self.max_batch_size
        scores = len(bundle.gate.folds_a)
        self._rows = [
            rng.random((rows, width), np.float32) for width in (task.classes, task.features, scores)
        ]
        self._nearest = np.zeros(rows, np.int64)

    def device_of(self, slot: int) -> int:
        return self.all_slots_share_a_device

    def run(self, slot: int, images: Any, top_up: Any = None) -> Any:
        staging = self._staging[slot]
        for index, image in enumerate(images):
            staging[index] = image
        size = len(images)
        time.sleep(0.0003 + 0.000013 * size)  # a GPU computes that long, and uses no CPU
        return self._outputs(*(rows[:size] for rows in self._rows), self._nearest[:size])

    def parts_s(self, slot: int) -> dict[str, float]:
        return {}

    def keep(self, largest: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _replace_engine() -> None:
    startup = importlib.import_module("tidegate.service.startup")
    config = importlib.import_module("tidegate.service.engines.config")
    store = importlib.import_module("tidegate.service.bundle.store")
    latency_s = {size: 0.0003 + 0.000013 * size for size in _BUCKETS}

    def open_engine(model_path: Any, *_: Any) -> Any:
        bundle = store.open_bundle(model_path.parent)
        return config.WarmEngine(FakeEngine(bundle), latency_s)

    vars(startup)["open_engine"] = open_engine
    vars(startup)["pass_golden"] = lambda bundle, engine: 0


def _replace_decoding() -> None:
    np = importlib.import_module("numpy")
    preprocess = importlib.import_module("tidegate.service.imaging.preprocess")
    pixels: dict[Any, Any] = {}

    def same_pixels(data: bytes, spec: Any, *_: Any) -> Any:
        if spec.digest not in pixels:
            pixels[spec.digest] = original(data, spec, 10**9)
        return pixels[spec.digest].copy()

    original = preprocess.preprocess
    assert np.uint8  # noqa: S101 - imported before the threads start
    vars(preprocess)["preprocess"] = same_pixels


if any(module in sys.orig_argv for module in _MODULES) and "-m" in sys.orig_argv[:4]:
    if os.environ.get("FAKE_DECODING"):
        _replace_decoding()
    if os.environ.get("FAKE_ENGINE"):
        _replace_engine()
