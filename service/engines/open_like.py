"""Open a further engine while another runs: of the same kind, with as many slots and threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tidegate.service.engines.base import Engine
from tidegate.service.engines.config import EngineConfig
from tidegate.service.engines.cpu_engines import (
    CPU_ENGINES,
    CpuEngine,
    check_precision,
    engines_for,
    single_image_threads,
)
from tidegate.service.engines.open_gpu import EngineRequest, open_gpu_engine
from tidegate.service.engines.openvino.engine import OpenVinoEngine
from tidegate.service.errors import EngineUnavailable


def open_like(
    running: Engine, model: Path, config: EngineConfig, buckets: Sequence[int], precision: str
) -> Engine:
    """Load a sealed graph as `running` loaded its own; `config` is that of the service.

    On a CPU another engine is used if the one that runs does not compute in `precision` and the
    settings allow any. Raises EngineUnavailable or BundleRefused.
    """
    info = running.info
    if info.device == "cpu":
        return _like(info.name, config, precision).open(
            model,
            slots=running.slots,
            threads_per_slot=info.threads_per_slot,
            buckets=buckets,
            precision=precision,
        )
    if config.name not in ("auto", info.name):
        raise EngineUnavailable(
            f"The bundle's gate is calibrated for engine {config.name}, and the service runs "
            f"{info.name}: serve the bundle alone, or the model's bundle in another precision."
        )
    check_precision(info.name, precision, config.openvino_device)
    if info.name == "openvino":
        return OpenVinoEngine(
            model,
            slots=running.slots,
            buckets=buckets,
            precision=precision,
            device=config.openvino_device,
        )
    request = EngineRequest(model, info.name, buckets, precision)
    return open_gpu_engine(request, config.gpu, config.slots)


def may_use_all_cores(engine: Engine, config: EngineConfig) -> bool:
    """Return whether another copy of `engine` could run a single image on several cores."""
    info = engine.info
    chosen = not config.threads_per_slot and info.threads_per_slot == 1
    return info.device == "cpu" and chosen and engine.slots > 1


def open_on_all_cores(running: Engine, model: Path, config: EngineConfig, precision: str) -> Engine:
    """Load a sealed graph for a single image, next to `open_like`.

    Raises EngineUnavailable or BundleRefused.
    """
    return _like(running.info.name, config, precision).open(
        model, threads_per_slot=single_image_threads(running.slots), precision=precision
    )


def _like(running: str, config: EngineConfig, precision: str) -> CpuEngine:
    engines = engines_for(config.name if config.name in CPU_ENGINES else "auto", precision)
    return next((engine for engine in engines if engine.name == running), engines[0])
