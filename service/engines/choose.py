"""Which engine, how many slots, how many threads and how large a batch: measured, unless set."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tidegate.service.cpu import usable_cores
from tidegate.service.engines import warm_up
from tidegate.service.engines.base import Engine
from tidegate.service.engines.cuda.open import open_cuda
from tidegate.service.engines.faults import Fault, fault_of
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.engines.open_gpu import (
    GPU_ENGINES,
    EngineRequest,
    GpuConfig,
    choose_all_graphs,
    open_gpu_engine,
)
from tidegate.service.engines.tensorrt.build import Progress
from tidegate.service.errors import EngineUnavailable

log = logging.getLogger(__name__)

ENGINES = ("auto", *GPU_ENGINES, "onnx-cpu")
_SAY_EVERY_S = 5.0
_WORTH_SHARING = 1.1  # cores that share a batch must give 10 % more than cores with one each
_MOST_FOR_ONE = 8  # threads on a single image


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What the operator set; 0 means measure."""

    name: str = "auto"
    slots: int = 0
    threads_per_slot: int = 0
    max_batch_size: int = 0
    gpu: GpuConfig = field(default_factory=GpuConfig)


@dataclass(frozen=True, slots=True)
class WarmEngine:
    """An engine whose every slot has run every bucket, and how long each bucket took."""

    engine: Engine
    latency_s: dict[int, float]  # bucket → seconds, with every slot busy
    all_cores_engine: Engine | None = (
        None  # one slot on all cores, for an image that is alone, if that pays
    )
    single_image_s: float | None = None  # what it takes for one


def buckets_for(max_batch_size: int, hints: Sequence[int]) -> list[int]:
    """Return the batch sizes to warm: a bundle's hints, up to what the operator set (0: all)."""
    if not max_batch_size:
        return list(hints)
    return [*(bucket for bucket in hints if bucket < max_batch_size), max_batch_size]


def open_engine(
    model: Path, config: EngineConfig, buckets: Sequence[int], precision: str = "fp32"
) -> WarmEngine:
    """Load, measure and warm the engine for a sealed graph. Blocks for seconds.

    `buckets` are the bundle's hints and `precision` what its backbone was sealed in.
    Raises EngineUnavailable when it does not load; `auto` takes the best that does.
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
        log.info("the engine is onnx-cpu, for there is no other: %s", error)
        return _open(model, replace(config, name="onnx-cpu"), buckets, precision)
    for name in (*GPU_ENGINES, "onnx-cpu"):
        try:
            opened = _open(model, replace(config, name=name), buckets, precision)
        except EngineUnavailable as error:
            log.info("the engine is not %s: %s", name, error)
        else:
            log.info("the engine is %s, the best of %s that loads", name, ", ".join(ENGINES[1:]))
            return opened
    raise EngineUnavailable("No engine loads this model here; the lines above say why.")


def _open(model: Path, config: EngineConfig, buckets: Sequence[int], precision: str) -> WarmEngine:
    stop_early = not config.max_batch_size
    if config.name != "onnx-cpu":
        request = EngineRequest(model, config.name, buckets, precision, _say_progress())
        engine = open_gpu_engine(request, config.gpu, config.slots)
        try:
            return _warm_on_gpu(engine, buckets, stop_early=stop_early)
        except Exception as error:  # a runtime's own, of any kind
            with contextlib.suppress(Exception):
                engine.close()
            few = " Lower TIDEGATE_MAX_BATCH_SIZE." if fault_of(error) is Fault.MEMORY else ""
            raise EngineUnavailable(
                f"Engine {config.name} fails as it warms: {error}.{few}"
            ) from error
    slots, threads = _shape(model, config)
    on_cpu = OnnxEngine(
        model, slots=slots, threads_per_slot=threads, buckets=buckets, precision=precision
    )
    latency_s = warm_up.measure_batch_sizes(on_cpu, buckets, stop_early=stop_early)
    if not config.threads_per_slot and threads == 1 and slots > 1:
        threads = min(slots, usable_cores(), _MOST_FOR_ONE)
        all_cores_engine = OnnxEngine(model, threads_per_slot=threads, precision=precision)
        if single_image_s := warm_up.time_single_image(on_cpu, all_cores_engine):
            return WarmEngine(on_cpu, latency_s, all_cores_engine, single_image_s)
        all_cores_engine.close()
    return WarmEngine(on_cpu, latency_s)


def _warm_on_gpu(engine: Engine, buckets: Sequence[int], *, stop_early: bool) -> WarmEngine:
    latency_s = warm_up.measure_batch_sizes(engine, buckets, stop_early=stop_early)
    if chosen := choose_all_graphs(engine, list(latency_s)):
        log.info("batches of %s run as CUDA graphs", ", ".join(map(str, chosen)))
        latency_s = warm_up.measure_batch_sizes(engine, list(latency_s), stop_early=False)
    return WarmEngine(engine, latency_s)


def _say_progress() -> Progress:
    """Return what logs each phase of a plan's build, a line every few seconds."""
    said_at = 0.0

    def say(phase: str, done: int, steps: int) -> None:
        nonlocal said_at
        now = time.monotonic()
        if now - said_at > _SAY_EVERY_S:
            said_at = now
            log.info("building the plan: %s, %d of %d", phase, done, steps)

    return say


def _shape(model: Path, config: EngineConfig) -> tuple[int, int]:
    """Return (slots, threads per slot): as set, or the candidate that runs most images a second."""
    cores = usable_cores()
    if config.slots and config.threads_per_slot:
        return config.slots, config.threads_per_slot
    if config.slots:
        return config.slots, max(1, cores // config.slots)
    if config.threads_per_slot:
        return max(1, cores // config.threads_per_slot), config.threads_per_slot
    candidates = [(cores // threads, threads) for threads in (2, 4) if cores // threads > 1]
    candidates += [(1, cores)] if cores > 1 else []
    best = (cores, 1)
    for shape in candidates:
        if _shares_better(model, best, shape):
            best = shape
    return best


def _shares_better(model: Path, alone: tuple[int, int], shared: tuple[int, int]) -> bool:
    engines = [
        OnnxEngine(model, slots=slots, threads_per_slot=threads)
        for slots, threads in (alone, shared)
    ]
    images = (warm_up.random_image(engines[0]),)
    rounds = [
        tuple(warm_up.images_per_s(1, warm_up.time_all_slots(engine, images)) for engine in engines)
        for _ in range(warm_up.ROUNDS)
    ]
    for engine in engines:
        engine.close()
    return warm_up.clearly_faster(rounds, _WORTH_SHARING)
