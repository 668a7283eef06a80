"""Measure one engine on one device: latency, throughput, overlap, CUDA graphs, memory.

All batches run through the slots that the service uses. Rounds of variants are interleaved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import numpy as np

from tidegate.service.engines.base import PARTS
from tidegate.service.engines.cuda.base import Address, Device
from tidegate.service.engines.gpu_engine import DeviceEngine
from tidegate.service.engines.gpu_program import Program
from tidegate.service.types import Pixels

OpenEngine = Callable[
    [int], AbstractContextManager[DeviceEngine]
]  # the argument is the number of slots
_ROUNDS = 5
_LEAST_RUNS = 3


@dataclass(frozen=True, slots=True)
class MeasurementBudget:
    """How long to measure."""

    runs: int = 200  # per batch size, for its latency
    runs_s: float = 10.0  # time limit of these runs
    warm_up: int = 20
    seconds: float = 2.0  # per throughput measurement
    plateau: int = 10_000  # batches of the memory measurement
    plateau_s: float = 60.0  # its time limit per engine
    http_s: float = 20.0  # per load test over HTTP


def batch_of(pixels: Sequence[Pixels], images: int) -> list[Pixels]:
    """Return a batch of `images` images, repeating `pixels`."""
    return [pixels[index % len(pixels)] for index in range(images)]


def eager(
    engine: DeviceEngine, batch: Sequence[Pixels], budget: MeasurementBudget
) -> dict[str, object]:
    """Return the latency of a batch on one slot of an otherwise idle device, in milliseconds."""
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
    """Return the latency of a batch as a CUDA graph, in milliseconds; its size is a bucket's.

    Raises the runtime's error if the graph cannot be captured.
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
    """Return the median latency of batches that alternate on one slot, and of each one repeated.

    It reveals runtimes that plan their convolutions again at each change of shape.
    """
    repeated = [_ms(_latencies(engine, [batch], budget)[0], 50) for batch in batches]
    turns = [_ms(times, 50) for times in _latencies(engine, batches, budget)]
    return {
        "alone_p50_ms": repeated,
        "in_turn_p50_ms": turns,
        "ratio": [turn / own for turn, own in zip(turns, repeated, strict=True)],
    }


def slots(
    open_engine: OpenEngine,
    bare: Callable[[], float],
    pixels: Sequence[Pixels],
    budget: MeasurementBudget,
    counts: Sequence[int] = (1, 2, 3),
) -> dict[str, object]:
    """Return images per second of full batches through 1, 2 and 3 slots, and of a bare loop.

    The rounds of all of them are interleaved. Returns medians and their ratios.
    """
    rates: dict[int, list[float]] = {count: [] for count in counts}
    bare_rates: list[float] = []
    with ExitStack() as opened:
        engines = {count: opened.enter_context(open_engine(count)) for count in counts}
        for _ in range(_ROUNDS):
            bare_rates.append(bare())
            for count, engine in engines.items():
                rates[count].append(throughput(engine, pixels, budget.seconds))
    usual = {count: float(np.median(rate)) for count, rate in rates.items()}
    loop = float(np.median(bare_rates))
    return {
        "images_per_s": usual,
        "bare_loop_images_per_s": loop,
        "of_bare_loop": {count: rate / loop for count, rate in usual.items()},
        "of_one_slot": {count: rate / usual[counts[0]] for count, rate in usual.items()},
        "rounds": rates,
        "bare_loop_rounds": bare_rates,
    }


def throughput(engine: DeviceEngine, pixels: Sequence[Pixels], seconds: float) -> float:
    """Return images per second of full batches with every slot busy."""
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
    """Return a function that measures a bare loop around the runtime: one stream, no copies.

    `at_once` batches are queued between two readings of the clock, so that the device never waits.
    """
    device.use()
    height, width = program.input_size
    pixels = device.allocate(images * height * width * 3)
    outputs = {
        name: device.allocate(tensor.bytes_of(images)) for name, tensor in program.outputs.items()
    }
    size = program.execution_bytes
    workspace = device.allocate(size) if size else Address(0)
    execution, stream = program.execution(device, workspace), device.stream()

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
    """Return the time of concurrent batches on all slots, and of the same number one by one."""
    batch = batch_of(pixels, engine.max_batch_size)

    def work(slot: int) -> None:
        for _ in range(batches):
            engine.run(slot, batch)

    together, one_by_one = [], []
    with ThreadPoolExecutor(engine.slots) as pool:
        list(pool.map(work, range(engine.slots)))
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            list(pool.map(work, range(engine.slots)))
            together.append(time.perf_counter() - started)
            started = time.perf_counter()
            for slot in range(engine.slots):
                work(slot)
            one_by_one.append(time.perf_counter() - started)
    return {
        "slots": engine.slots,
        "together_s": float(np.median(together)),
        "one_by_one_s": float(np.median(one_by_one)),
        "ratio": float(np.median(np.divide(together, one_by_one))),
    }


def plateau(
    engine: DeviceEngine, device: Device, pixels: Sequence[Pixels], batches: int, limit_s: float
) -> dict[str, int]:
    """Return the device memory in use after a tenth of the batches and after all.

    Both parts run a block of batches of each size. It stops after `limit_s`, and returns the number
    of batches too.
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
    """Run a batch repeatedly, on each slot in turn and at least once; return the count."""
    ran, end = 0, time.perf_counter() + limit_s
    while ran < engine.slots or (ran < most and time.perf_counter() < end):
        engine.run(ran % engine.slots, batch)
        ran += 1
    return ran


def _latencies(
    engine: DeviceEngine, batches: Sequence[Sequence[Pixels]], budget: MeasurementBudget
) -> list[list[float]]:
    """Return each batch's times in seconds; the batches alternate on one slot."""
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
