"""Open a further engine while another runs: of the same kind, with as many slots and threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tidegate.service.engines.base import Engine
from tidegate.service.engines.config import EngineConfig
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.engines.open_gpu import EngineRequest, open_gpu_engine


def open_like(
    running: Engine, model: Path, config: EngineConfig, buckets: Sequence[int], precision: str
) -> Engine:
    """Load a sealed graph as `running` loaded its own; `config` is that of the service.

    Raises EngineUnavailable or BundleRefused.
    """
    info = running.info
    if info.device == "cpu":
        return OnnxEngine(
            model,
            slots=running.slots,
            threads_per_slot=info.threads_per_slot,
            buckets=buckets,
            precision=precision,
        )
    request = EngineRequest(model, info.name, buckets, precision)
    return open_gpu_engine(request, config.gpu, config.slots)
