"""What one engine on one device does: latency, throughput, overlap, graphs, memory.

Everything runs through the slots that serve. Whatever is compared takes turns, round by round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import numpy as np

from tidegate.service.engines.base import PARTS
from tidegate.service.engines.cuda.base import Device
from tidegate.service.engines.gpu_engine import DeviceEngine, Program
from tidegate.service.types import Pixels

OpenEngine = Callable[[int], AbstractContextManager[DeviceEngine]]  # with so many slots
_ROUNDS = 5
_LEAST_RUNS = 3


@dataclass(frozen=True, slots=True)
class MeasurementBudget:
    """How long to measure for."""

    runs: int = 200  # of each bucket, for its latency
    runs_s: float = 10.0  # the most that those take
    warm_up: int = 20
    seconds: float = 2.0  # of each throughput
    plateau: int = 10_000  # batches, for the memory
    plateau_s: float = 60.0  # the most that those take, on each engine
    http_s: float = 20.0  # of each load over HTTP


def batch_of(pixels: Sequence[Pixels], images: int) -> list[Pixels]:
    """Return a batch of so many images, of `pixels` again and again."""
    return [pixels[index % len(pixels)] for index in range(images)]


def eager(
    engine: DeviceEngine, batch: Sequence[Pixels], budget: MeasurementBudget
) -> dict[str, object]:
    """Return what a batch takes on one slot, alone on the device, in milliseconds."""
    (times,) = _latencies(engine, [batch], budget)
    parts = engine.parts_s(0)
    return {
        "runs": len(times),
        "eager_p50_ms": _ms(times, 50),
        "eager_p99_ms": _ms(times, 99),
        "parts_ms": {part: 1e3 * parts[part] for part in PARTS},
    }


def as_graph(
    engine: DeviceEngine, batch: Sequence[Pixels], budget: MeasurementBudget
) -> dict[str, object]:
    """Return what a batch, of the size of a bucket, takes as a CUDA graph, in milliseconds.

    Raises what the runtime does where it cannot be captured.
    """
    try:
        engine.capture(len(batch))
        (times,) = _latencies(engine, [batch], budget)
    finally:
        engine.forget(len(batch))
    return {"graph_p50_ms": _ms(times, 50), "graph_p99_ms": _ms(times, 99)}


def in_turn(
    engine: DeviceEngine, batches: Sequence[Sequence[Pixels]], budget: MeasurementBudget
) -> dict[str, object]:
    """Return the median of batches that take turns on one slot, next to each one's alone.

    A runtime that plans its convolutions anew at each change of shape shows here.
    """
    alone = [_ms(_latencies(engine, [batch], budget)[0], 50) for batch in batches]
    turns = [_ms(times, 50) for times in _latencies(engine, batches, budget)]
    return {
        "alone_p50_ms": alone,
        "in_turn_p50_ms": turns,
        "ratio": [turn / own for turn, own in zip(turns, alone, strict=True)],
    }


def slots(
    open_engine: OpenEngine,
    bare: Callable[[], float],
    pixels: Sequence[Pixels],
    budget: MeasurementBudget,
    counts: Sequence[int] = (1, 2, 3),
) -> dict[str, object]:
    """Return images a second of full batches through 1, 2 and 3 slots, and of a bare loop.

    The rounds of all of them are interleaved; medians are told, and the ratios of those.
    """
    rates: dict[int, list[float]] = {count: [] for count in counts}
    alone: list[float] = []
    with ExitStack() as opened:
        engines = {count: opened.enter_context(open_engine(count)) for count in counts}
        for _ in range(_ROUNDS):
            alone.append(bare())
            for count, engine in engines.items():
                rates[count].append(throughput(engine, pixels, budget.seconds))
    usual = {count: float(np.median(rate)) for count, rate in rates.items()}
    loop = float(np.median(alone))
    return {
        "images_per_s": usual,
        "bare_loop_images_per_s": loop,
        "of_bare_loop": {count: rate / loop for count, rate in usual.items()},
        "of_one_slot": {count: rate / usual[counts[0]] for count, rate in usual.items()},
        "rounds": rates,
        "bare_loop_rounds": alone,
    }


def throughput(engine: DeviceEngine, pixels: Sequence[Pixels], seconds: float) -> float:
    """Return images a second of full batches, every slot busy all the time."""
    batch = batch_of(pixels, engine.max_batch_size)

    def work(slot: int) -> int:
        engine.run(slot, batch)
        done, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            engine.run(slot, batch)
            done += len(batch)
        return done

    with ThreadPoolExecutor(engine.slots) as pool:
        started = time.perf_counter()
        return sum(pool.map(work, range(engine.slots))) / (time.perf_counter() - started)


def bare_loop(
    device: Device, program: Program, images: int, seconds: float, *, at_once: int = 8
) -> Callable[[], float]:
    """Return what measures a loop around the runtime alone: one stream, nothing is copied.

    `at_once` batches are queued between two looks at the clock, so that the device never waits.
    """
    device.use()
    height, width = program.input_size
    pixels = device.allocate(images * height * width * 3)
    outputs = {
        name: device.allocate(tensor.bytes_of(images)) for name, tensor in program.outputs.items()
    }
    execution, stream = program.execution(device), device.stream()

    def measure() -> float:
        device.use()
        execution.enqueue(images, pixels, outputs, stream)
        device.synchronize(stream)
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            for _ in range(at_once):
                execution.enqueue(images, pixels, outputs, stream)
            device.synchronize(stream)
            done += at_once * images
        return done / (time.perf_counter() - started)

    return measure


def overlap(engine: DeviceEngine, pixels: Sequence[Pixels], batches: int = 50) -> dict[str, float]:
    """Return the time of batches on all slots at once, against that of as many one by one."""
    batch = batch_of(pixels, engine.max_batch_size)

    def work(slot: int) -> None:
        for _ in range(batches):
            engine.run(slot, batch)

    together, alone = [], []
    with ThreadPoolExecutor(engine.slots) as pool:
        list(pool.map(work, range(engine.slots)))
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            list(pool.map(work, range(engine.slots)))
            together.append(time.perf_counter() - started)
            started = time.perf_counter()
            for slot in range(engine.slots):
                work(slot)
            alone.append(time.perf_counter() - started)
    return {
        "slots": engine.slots,
        "together_s": float(np.median(together)),
        "one_by_one_s": float(np.median(alone)),
        "ratio": float(np.median(np.divide(together, alone))),
    }


def plateau(
    engine: DeviceEngine, device: Device, pixels: Sequence[Pixels], batches: int, limit_s: float
) -> dict[str, int]:
    """Return the device memory in use after a tenth of the batches and after all.

    Either part has a block of each size. It ends at `limit_s`, so it tells how many there were.
    """
    sizes, ran, used = engine.buckets, 0, []
    for share in (0.1, 0.9):
        for images in sizes:
            most, block_s = round(batches * share / len(sizes)), limit_s * share / len(sizes)
            ran += _block(engine, batch_of(pixels, images), most, block_s)
        device.use()
        free, total = device.memory()
        used.append(total - free)
    return {"batches": ran, "early_bytes": used[0], "late_bytes": used[1]}


def _block(engine: DeviceEngine, batch: Sequence[Pixels], most: int, limit_s: float) -> int:
    """Run a batch again and again, the slots in turn, each at least once; returns how often."""
    ran, end = 0, time.perf_counter() + limit_s
    while ran < engine.slots or (ran < most and time.perf_counter() < end):
        engine.run(ran % engine.slots, batch)
        ran += 1
    return ran


def _latencies(
    engine: DeviceEngine, batches: Sequence[Sequence[Pixels]], budget: MeasurementBudget
) -> list[list[float]]:
    """Return each batch's times, in seconds; they take turns on one slot."""
    times: list[list[float]] = [[] for _ in batches]
    end = time.perf_counter() + budget.runs_s
    for run in range(-budget.warm_up, budget.runs):
        if len(times[0]) >= _LEAST_RUNS and time.perf_counter() > end:
            break
        for batch, took in zip(batches, times, strict=True):
            started = time.perf_counter()
            engine.run(0, batch)
            if run >= 0:
                took.append(time.perf_counter() - started)
    return times


def _ms(times: Sequence[float], percentile: float) -> float:
    return 1e3 * float(np.percentile(times, percentile))
