"""The operator's engine settings, and the result of warm-up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from tidegate.service.engines.base import Engine
from tidegate.service.engines.open_gpu import GpuConfig
from tidegate.service.errors import EngineUnavailable


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The operator's settings; 0 means: choose by measurement."""

    name: str = "auto"
    slots: int = 0
    threads_per_slot: int = 0
    max_batch_size: int = 0
    gpu: GpuConfig = field(default_factory=GpuConfig)
    openvino_device: str = "CPU"  # CPU, GPU, GPU.N or NPU
    warm_up_cache: Path | None = None  # folder of kept choices; None keeps none
    warm_up_limit_s: float = 60  # for the measurements on a CPU

    def for_calibration(self, engine: str | None) -> EngineConfig:
        """Return the settings for a bundle whose gate is calibrated for the numbers of `engine`.

        None: for those of any engine that computes its precision. Raises EngineUnavailable if
        another engine is set.
        """
        if engine is None or engine == self.name:
            return self
        if self.name == "auto":
            return replace(self, name=engine)
        raise EngineUnavailable(
            f"The bundle's gate is calibrated for engine {engine}, and engine {self.name} rounds "
            f"differently: set TIDEGATE_ENGINE={engine} (`tidegate classify`: --engine {engine}), "
            "or serve the model's bundle in another precision."
        )


@dataclass(frozen=True, slots=True)
class WarmEngine:
    """An engine whose every slot has run every bucket, with the measured latencies."""

    engine: Engine
    latency_s: dict[int, float]  # bucket → seconds, with every slot busy
    # One slot on all cores, for a single image; None if it is not clearly faster.
    all_cores_engine: Engine | None = None
    single_image_s: float | None = None  # its seconds for one image
    unmeasured: tuple[str, ...] = ()  # what there was no time to measure
