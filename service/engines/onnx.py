"""ONNX Runtime: slots with a staging buffer each, sharing a session where they can."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from service.engines.base import EngineInfo
from service.errors import EngineUnavailable
from service.types import Outputs, Pixels

_OUTPUTS = ("logits", "features", "energy", "mahalanobis", "nearest_class")
_PROVIDERS = {"onnx-cpu": "CPUExecutionProvider", "onnx-cuda": "CUDAExecutionProvider"}


class OnnxEngine:
    """A sealed graph on ONNX Runtime; the provider asked for is the provider that runs."""

    def __init__(
        self,
        model: Path,
        *,
        name: str = "onnx-cpu",
        slots: int = 1,
        threads_per_slot: int = 1,
        buckets: Sequence[int] = (1,),
        precision: str = "fp32",
    ) -> None:
        """Load `model`, whose backbone was sealed in `precision`.

        Raises EngineUnavailable when it, or the provider, does not load.
        """
        # With one thread a slot, its own thread computes, so one session and one copy of the
        # weights serve all. A session's further threads are its own: then each slot needs one.
        sessions = slots if threads_per_slot > 1 else 1
        self._sessions = [_session(model, name, threads_per_slot) for _ in range(sessions)]
        _, height, width, channels = self._sessions[0].get_inputs()[0].shape
        self._buckets = tuple(sorted(buckets))
        self._staging = [
            np.zeros((self._buckets[-1], height, width, channels), np.uint8) for _ in range(slots)
        ]
        self._info = EngineInfo(
            name=name,
            runtime=f"onnxruntime {_runtime_version()}",
            device="cpu" if name == "onnx-cpu" else "cuda:0",
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

    def run(self, slot: int, images: Sequence[Pixels]) -> Outputs:
        count = len(images)
        # A single image goes in as it is; more are copied side by side.
        batch = images[0][np.newaxis] if count == 1 else self._stage(slot, images)
        session = self._sessions[slot % len(self._sessions)]
        logits, features, energy, distance, nearest = session.run(_OUTPUTS, {"pixels": batch})
        return Outputs(logits, features, energy, distance, nearest).rows(0, count)

    def close(self) -> None:
        self._sessions.clear()

    def _stage(self, slot: int, images: Sequence[Pixels]) -> Any:
        staging = self._staging[slot]
        for row, image in enumerate(images):
            staging[row] = image
        return staging[: self._padded(len(images))]

    def _padded(self, count: int) -> int:
        """Return the batch size that runs: any on the CPU, on a GPU one it was warmed for."""
        if self._info.name == "onnx-cpu":
            return count
        return next(size for size in self._buckets if size >= count)


def _session(model: Path, name: str, threads: int) -> Any:
    import onnxruntime as ort

    provider = _PROVIDERS[name]
    if provider not in ort.get_available_providers():
        raise EngineUnavailable(
            f"Engine {name} needs ONNX Runtime's {provider}, which this installation lacks "
            f"(it has {', '.join(ort.get_available_providers())})."
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # Spinning threads burn the cores that decoding needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if name != "onnx-cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(model, options, providers=[provider])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise EngineUnavailable(f"Engine {name} cannot load {model}: {error}") from error
    if session.get_providers()[0] != provider:
        raise EngineUnavailable(f"Engine {name} was asked for, but {provider} did not load.")
    return session


def _runtime_version() -> str:
    import onnxruntime as ort

    return str(ort.__version__)
