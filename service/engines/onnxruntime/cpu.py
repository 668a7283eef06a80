"""ONNX Runtime on the CPU. Each slot has a staging buffer; slots of one thread share a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.service.engines.base import EngineInfo, TopUp
from tidegate.service.engines.onnxruntime.session import freeing, open_session, runtime
from tidegate.service.errors import BundleRefused
from tidegate.service.types import OUTPUT_NAMES, Outputs, Pixels


class OnnxEngine:
    """A sealed graph on the CPU. Slots run concurrently, so `run` never calls `top_up`."""

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

        Raises EngineUnavailable if it does not load.
        """
        # With one thread per slot, the calling thread computes, so one session and one copy of the
        # weights serve all slots. With more, each slot needs a session with its own thread pool.
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
        """Return (height, width) of the graph's input."""
        _, height, width, _ = self._staging[0].shape
        return height, width

    def device_of(self, slot: int) -> int:
        return 0

    def run(self, slot: int, images: Sequence[Pixels], top_up: TopUp | None = None) -> Outputs:
        count = len(images)
        # A single image needs no copy; several are copied into one contiguous batch.
        batch = images[0][np.newaxis] if count == 1 else self._stage(slot, images)
        session = self._sessions[slot % len(self._sessions)]
        return Outputs(*session.run(OUTPUT_NAMES, {"pixels": batch})).rows(0, count)

    def parts_s(self, slot: int) -> Mapping[str, float]:
        return {}

    def keep(self, largest: int) -> None:
        self._buckets = tuple(bucket for bucket in self._buckets if bucket <= largest)
        self._staging = [staging[:largest].copy() for staging in self._staging]
        pixels = self._staging[0][:1]
        for session in self._sessions:
            session.run(OUTPUT_NAMES, {"pixels": pixels}, freeing("cpu:0"))

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
        raise BundleRefused(
            f"{model} must have exactly one input, pixels: a batch of images of a fixed size."
        )
    if missing := [name for name in OUTPUT_NAMES if name not in outputs]:
        raise BundleRefused(f"{model} has no output {missing[0]}.")
    height, width, channels = size
    return height, width, channels


def _session(model: Path, threads: int) -> Any:
    entries = {"session.intra_op.allow_spinning": "0"}  # spinning takes CPU time from decoding
    return open_session(model, "onnx-cpu", [("CPUExecutionProvider", {})], entries, threads)
