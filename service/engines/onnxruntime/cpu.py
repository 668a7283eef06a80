"""ONNX Runtime on the CPU: slots with a staging buffer each, sharing a session where they can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.service.engines.base import EngineInfo, TopUp
from tidegate.service.engines.onnxruntime.session import open_session, runtime
from tidegate.service.errors import BundleRefused
from tidegate.service.types import OUTPUT_NAMES, Outputs, Pixels


class OnnxEngine:
    """A sealed graph on the CPU. Slots run side by side, so no batch waits to be filled up."""

    def __init__(
        self,
        model: Path,
        *,
        slots: int = 1,
        threads_per_slot: int = 1,
        buckets: Sequence[int] = (1,),
        precision: str = "fp32",
    ) -> None:
        """Load `model`, whose backbone was sealed in `precision`.

        Raises EngineUnavailable when it does not load.
        """
        # With one thread a slot, its own thread computes, so one session and one copy of the
        # weights serve all. A session's further threads are its own: then each slot needs one.
        sessions = slots if threads_per_slot > 1 else 1
        self._sessions = [_session(model, threads_per_slot) for _ in range(sessions)]
        height, width, channels = _image_size(self._sessions[0], model)
        self._buckets = tuple(sorted(buckets))
        self._staging = [
            np.zeros((self._buckets[-1], height, width, channels), np.uint8) for _ in range(slots)
        ]
        self._info = EngineInfo(
            name="onnx-cpu",
            runtime=runtime(),
            device="cpu",
            precision=precision,
            threads_per_slot=threads_per_slot,
        )

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def slots(self) -> int:
        return len(self._staging)

    @property
    def max_batch_size(self) -> int:
        return self._buckets[-1]

    @property
    def input_size(self) -> tuple[int, int]:
        """Return (height, width) of the pixels the graph takes."""
        _, height, width, _ = self._staging[0].shape
        return height, width

    def device_of(self, slot: int) -> int:
        return 0

    def run(self, slot: int, images: Sequence[Pixels], top_up: TopUp | None = None) -> Outputs:
        count = len(images)
        # A single image goes in as it is; more are copied side by side.
        batch = images[0][np.newaxis] if count == 1 else self._stage(slot, images)
        session = self._sessions[slot % len(self._sessions)]
        logits, features, energy, distance, nearest = session.run(OUTPUT_NAMES, {"pixels": batch})
        return Outputs(logits, features, energy, distance, nearest).rows(0, count)

    def parts_s(self, slot: int) -> Mapping[str, float]:
        return {}

    def close(self) -> None:
        self._sessions.clear()

    def _stage(self, slot: int, images: Sequence[Pixels]) -> Any:
        staging = self._staging[slot]
        for row, image in enumerate(images):
            staging[row] = image
        return staging[: len(images)]


def _image_size(session: Any, model: Path) -> tuple[int, int, int]:
    """Return the size of the graph's images. Raises BundleRefused if it is not a sealed graph."""
    inputs = {put.name: put.shape[1:] for put in session.get_inputs()}
    outputs = {out.name for out in session.get_outputs()}
    size = inputs.get("pixels", ())
    if len(inputs) != 1 or len(size) != 3 or not all(isinstance(n, int) for n in size):
        raise BundleRefused(f"{model} does not take one batch of images of a fixed size, pixels.")
    if missing := [name for name in OUTPUT_NAMES if name not in outputs]:
        raise BundleRefused(f"{model} has no output {missing[0]}.")
    height, width, channels = size
    return height, width, channels


def _session(model: Path, threads: int) -> Any:
    entries = {"session.intra_op.allow_spinning": "0"}  # it burns the cores that decoding needs
    return open_session(model, "onnx-cpu", [("CPUExecutionProvider", {})], entries, threads)
