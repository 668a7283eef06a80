"""Choose the engine, its slots, threads and batch sizes: by measurement, unless they are set."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tidegate.service.engines import warm_up
from tidegate.service.engines.base import Engine
from tidegate.service.engines.config import EngineConfig, WarmEngine
from tidegate.service.engines.cpu_engines import CPU_ENGINES, check_precision, engines_for
from tidegate.service.engines.cpu_warm_up import open_on_cpu
from tidegate.service.engines.cuda.open import open_cuda
from tidegate.service.engines.faults import Fault, fault_of
from tidegate.service.engines.open_gpu import (
    GPU_ENGINES,
    EngineRequest,
    choose_all_graphs,
    devices_of,
    open_gpu_engine,
)
from tidegate.service.engines.openvino.engine import OpenVinoEngine
from tidegate.service.engines.tensorrt.build import Progress
from tidegate.service.errors import EngineUnavailable

log = logging.getLogger(__name__)

ENGINES = ("auto", *GPU_ENGINES, *CPU_ENGINES)
_PROGRESS_EVERY_S = 5.0


def buckets_for(max_batch_size: int, hints: Sequence[int]) -> list[int]:
    """Return the batch sizes to warm up: the bundle's hints up to `max_batch_size` (0: all)."""
    if not max_batch_size:
        return list(hints)
    return [*(bucket for bucket in hints if bucket < max_batch_size), max_batch_size]


def open_engine(
    model: Path, config: EngineConfig, buckets: Sequence[int], precision: str = "fp32"
) -> WarmEngine:
    """Load, measure and warm up the engine for a sealed graph. Blocks for seconds.

    `buckets` are the bundle's hints, `precision` is that of its sealed backbone. `auto` uses the
    first GPU engine that loads, else the fastest one on the CPU. Raises EngineUnavailable if none
    loads.
    """
    if config.name not in ENGINES:
        raise EngineUnavailable(f"Engine {config.name} is not one of {', '.join(ENGINES)}.")
    buckets = buckets_for(config.max_batch_size, buckets)
    if config.name == "auto":
        return _open_best(model, config, buckets, precision)
    return _open(model, config, buckets, precision)


def _open_best(
    model: Path, config: EngineConfig, buckets: Sequence[int], precision: str
) -> WarmEngine:
    try:
        open_cuda(config.gpu.cuda_binding).device_count()
    except EngineUnavailable as error:
        log.debug("no GPU available: %s", error)
        opened = _open_fastest_on_cpu(model, config, buckets, precision)
        log.info("using engine %s (no GPU available)", opened.engine.info.name)
        return opened
    for name in GPU_ENGINES:
        try:
            opened = _open(model, replace(config, name=name), buckets, precision)
        except EngineUnavailable as error:
            log.info("engine %s is not available: %s", name, error)
        else:
            log.info("using engine %s (first available of %s)", name, ", ".join(ENGINES[1:]))
            return opened
    try:
        return _open_fastest_on_cpu(model, config, buckets, precision)
    except EngineUnavailable as error:
        raise EngineUnavailable(
            f"No engine can load this model; see the log lines above. On the CPU: {error}"
        ) from error


def _open_fastest_on_cpu(
    model: Path, config: EngineConfig, buckets: Sequence[int], precision: str
) -> WarmEngine:
    return open_on_cpu(engines_for("auto", precision), model, config, buckets, precision)


def _open(model: Path, config: EngineConfig, buckets: Sequence[int], precision: str) -> WarmEngine:
    check_precision(config.name, precision, config.openvino_device)
    on_intel_device = config.name == "openvino" and config.openvino_device != "CPU"
    if config.name in CPU_ENGINES and not on_intel_device:
        return open_on_cpu(engines_for(config.name, precision), model, config, buckets, precision)
    engine = _open_on_device(model, config, buckets, precision)
    try:
        return _warm_on_gpu(engine, buckets, stop_early=not config.max_batch_size)
    except Exception as error:  # the runtimes' exceptions share no base class
        with contextlib.suppress(Exception):
            engine.close()
        hint = " Lower TIDEGATE_MAX_BATCH_SIZE." if fault_of(error) is Fault.MEMORY else ""
        raise EngineUnavailable(
            f"Engine {config.name} failed during warm-up: {error}.{hint}"
        ) from error


def _open_on_device(
    model: Path, config: EngineConfig, buckets: Sequence[int], precision: str
) -> Engine:
    if config.name == "openvino":
        return OpenVinoEngine(
            model,
            slots=config.slots or 2,  # one is copied while the other computes
            buckets=buckets,
            precision=precision,
            device=config.openvino_device,
        )
    request = EngineRequest(model, config.name, buckets, precision, _log_progress())
    return open_gpu_engine(request, config.gpu, config.slots)


def _warm_on_gpu(engine: Engine, buckets: Sequence[int], *, stop_early: bool) -> WarmEngine:
    latency_s = warm_up.measure_batch_sizes(engine, buckets, stop_early=stop_early)
    smallest, largest, devices = min(latency_s), max(latency_s), devices_of(engine)
    engine.keep(largest)
    # The smallest size frees what larger ones needed, and the largest allocates its memory again,
    # before graphs can take it.
    between = [size for device in devices[:1] for size in device.buckets if size not in latency_s]
    again = sorted({smallest, *between, largest})
    latency_s |= warm_up.measure_batch_sizes(engine, again, stop_early=False)
    if chosen := choose_all_graphs(engine, sorted(latency_s)):
        with_graphs = warm_up.measure_batch_sizes(engine, sorted(latency_s), stop_early=False)
        if with_graphs.keys() == latency_s.keys():
            log.info("using CUDA graphs for batch sizes %s", ", ".join(map(str, chosen)))
            latency_s = with_graphs
        else:  # their memory is missing elsewhere
            for device in devices:
                for size in device.captured:
                    device.forget(size)
    for device in devices:
        free, total = device.memory()
        log.info(
            "%s: %d of %d MB in use after warm-up, by all processes",
            device.info.device,
            (total - free) // 10**6,
            total // 10**6,
        )
    return WarmEngine(engine, dict(sorted(latency_s.items())))


def _log_progress() -> Progress:
    """Return a callback that logs the progress of a plan's build, one line every few seconds."""
    logged_at = 0.0

    def progress(phase: str, done: int, steps: int) -> None:
        nonlocal logged_at
        now = time.monotonic()
        if now - logged_at > _PROGRESS_EVERY_S:
            logged_at = now
            log.info("building the TensorRT plan: %s, %d of %d", phase, done, steps)

    return progress
