"""Which engine, how many slots, how many threads and how large a batch: measured, unless set."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np

from service.engines.base import Engine
from service.engines.onnx import OnnxEngine
from service.errors import EngineUnavailable
from service.types import Pixels

ENGINES = ("auto", "onnx-cpu", "onnx-cuda")
_WORTH_IT = 1.04  # a batch twice as large, and half as prompt, must give 4 % more images a second
_WORTH_SHARING = 1.1  # cores that share a batch must give 10 % more than cores with one each
_ROUNDS = 9
_CLEARLY = 7  # rounds that must show it: a gain of just that much passes in one start of eleven
_TRIAL_S = 0.05
_LEAST_RUNS = 3


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What the operator set; 0 means measure."""

    name: str = "auto"
    slots: int = 0
    threads_per_slot: int = 0
    max_batch_size: int = 0


@dataclass(frozen=True, slots=True)
class WarmEngine:
    """An engine whose every slot has run every bucket, and how long each bucket took."""

    engine: Engine
    latency_s: dict[int, float]  # bucket → seconds, with every slot busy


def usable_cores() -> int:
    """Return how many cores this process may use, by affinity and by its cgroup's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        return max(1, min(cores or 1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return cores or 1


def open_engine(
    model: Path, config: EngineConfig, buckets: Sequence[int], precision: str = "fp32"
) -> WarmEngine:
    """Load, measure and warm the engine for a sealed graph. Blocks for seconds.

    `buckets` are the bundle's hints and `precision` what its backbone was sealed in.
    Raises EngineUnavailable when it does not load.
    """
    name = "onnx-cpu" if config.name == "auto" else config.name
    if name not in ENGINES:
        raise EngineUnavailable(f"Engine {name} is not one of {', '.join(ENGINES)}.")
    if config.max_batch_size:
        below = [bucket for bucket in buckets if bucket < config.max_batch_size]
        buckets = [*below, config.max_batch_size]
    slots, threads = _shape(model, name, config)
    engine = OnnxEngine(
        model,
        name=name,
        slots=slots,
        threads_per_slot=threads,
        buckets=buckets,
        precision=precision,
    )
    return WarmEngine(engine, _sweep(engine, buckets, stop_early=not config.max_batch_size))


def _shape(model: Path, name: str, config: EngineConfig) -> tuple[int, int]:
    """Return (slots, threads per slot): as set, or the candidate that runs most images a second."""
    cores = usable_cores()
    if config.slots and config.threads_per_slot:
        return config.slots, config.threads_per_slot
    if config.slots:
        return config.slots, max(1, cores // config.slots)
    if config.threads_per_slot:
        return max(1, cores // config.threads_per_slot), config.threads_per_slot
    if name != "onnx-cpu":
        return 2, 1  # copies of one batch overlap the computing of another
    candidates = [(cores // threads, threads) for threads in (2, 4) if cores // threads > 1]
    candidates += [(1, cores)] if cores > 1 else []
    best = (cores, 1)
    for shape in candidates:
        if _shares_better(model, name, best, shape):
            best = shape
    return best


def _shares_better(model: Path, name: str, alone: tuple[int, int], shared: tuple[int, int]) -> bool:
    engines = [
        OnnxEngine(model, name=name, slots=slots, threads_per_slot=threads)
        for slots, threads in (alone, shared)
    ]
    images = (_blank(engines[0]),)
    rounds = [tuple(_rate(1, _busy(engine, images)) for engine in engines) for _ in range(_ROUNDS)]
    for engine in engines:
        engine.close()
    return _ahead(rounds, _WORTH_SHARING)


def _sweep(engine: OnnxEngine, buckets: Sequence[int], *, stop_early: bool) -> dict[int, float]:
    """Run every bucket on all slots at once; returns the seconds that a batch of each took.

    They are those of its least disturbed round. With `stop_early`, goes no further than larger
    batches pay: a bucket takes turns with the one before it, so that a machine which changes pace
    does so for both.
    """
    image = _blank(engine)
    took_s = [_busy(engine, (image,) * buckets[0]) for _ in range(_LEAST_RUNS)]
    latency_s = {buckets[0]: _least_disturbed(took_s)}
    for before, bucket in pairwise(buckets):
        rounds = [
            (_busy(engine, (image,) * before), _busy(engine, (image,) * bucket))
            for _ in range(_ROUNDS)
        ]
        rates = [(_rate(before, small_s), _rate(bucket, large_s)) for small_s, large_s in rounds]
        if stop_early and not _ahead(rates, _WORTH_IT):
            break
        latency_s[bucket] = _least_disturbed([large_s for _, large_s in rounds])
    return latency_s


def _busy(engine: OnnxEngine, images: Sequence[Pixels]) -> list[float]:
    """Run the batch on all slots at once, again and again; returns each slot's median seconds."""

    def work(slot: int) -> float:
        # By the clock and not by count, so that all slots are busy until the end.
        end, took = time.perf_counter() + _TRIAL_S, [_timed(engine, slot, images)]
        while time.perf_counter() < end or len(took) < _LEAST_RUNS:
            took.append(_timed(engine, slot, images))
        return median(took)

    slots = range(engine.slots)
    with ThreadPoolExecutor(engine.slots) as pool:
        # The first run of a shape is another one's; a slot that fails in it must not be waited for.
        list(pool.map(lambda slot: engine.run(slot, images), slots))
        return list(pool.map(work, slots))


def _rate(images: int, took_s: Sequence[float]) -> float:
    """Return the images a second of slots that take so long for a batch of so many."""
    return sum(images / slot_s for slot_s in took_s)


def _least_disturbed(rounds: Sequence[Sequence[float]]) -> float:
    """Return the slowest slot's seconds, each slot's of its best round."""
    best: list[float] = [min(slot) for slot in zip(*rounds, strict=True)]
    return max(best)


def _ahead(rates: Sequence[tuple[float, ...]], worth: float) -> bool:
    """Tell whether the second of two is `worth` times as fast as the first in most rounds.

    Noise, which makes a round say anything, so leaves things as they are.
    """
    return sum(second >= worth * first for first, second in rates) >= _CLEARLY


def _timed(engine: Engine, slot: int, images: Sequence[Pixels]) -> float:
    started = time.perf_counter()
    engine.run(slot, images)
    return time.perf_counter() - started


def _blank(engine: OnnxEngine) -> Pixels:
    height, width = engine.input_size
    rng = np.random.default_rng(0)  # noise: zeros can be cheaper than any photo
    return Pixels(rng.integers(0, 256, (height, width, 3), np.uint8))
