"""What one engine on one device does: latency, throughput, overlap, graphs, memory.

Everything runs through the slots that serve. Whatever is compared takes turns, round by round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np

from service.engines.base import PARTS
from service.engines.cuda.base import Device
from service.engines.device import DeviceEngine, Program
from service.types import Pixels

OpenEngine = Callable[[int], DeviceEngine]  # with so many slots
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure for."""

    runs: int = 200  # of each bucket, for its latency
    warm_up: int = 20
    seconds: float = 2.0  # of each throughput
    plateau: int = 10_000  # batches, for the memory


@dataclass(frozen=True, slots=True)
class Bucket:
    """One batch size, alone on the device; times in milliseconds."""

    images: int
    eager_p50_ms: float
    eager_p99_ms: float
    graph_p50_ms: float | None
    graph_p99_ms: float | None
    parts_ms: dict[str, float]


def buckets(engine: DeviceEngine, pixels: Sequence[Pixels], effort: Effort) -> list[Bucket]:
    """Return what each batch size takes on one slot, with and without a graph."""
    rows = []
    for images in engine.buckets:
        batch = [pixels[index % len(pixels)] for index in range(images)]
        eager = _latencies(engine, batch, effort)
        parts = engine.parts_s(0)
        graph = None
        if engine.can_capture:
            engine.capture(images)
            graph = _latencies(engine, batch, effort)
            engine.release(images)
        rows.append(
            Bucket(
                images=images,
                eager_p50_ms=_ms(eager, 50),
                eager_p99_ms=_ms(eager, 99),
                graph_p50_ms=None if graph is None else _ms(graph, 50),
                graph_p99_ms=None if graph is None else _ms(graph, 99),
                parts_ms={part: 1e3 * parts[part] for part in PARTS},
            )
        )
    return rows


def slots(
    open_engine: OpenEngine,
    bare: Callable[[], float],
    pixels: Sequence[Pixels],
    effort: Effort,
    counts: Sequence[int] = (1, 2, 3),
) -> dict[str, object]:
    """Return images a second of full batches through 1, 2 and 3 slots, and of a bare loop.

    The rounds of all of them are interleaved; medians are told, and the ratios of those.
    """
    engines = {count: open_engine(count) for count in counts}
    rates: dict[int, list[float]] = {count: [] for count in counts}
    alone: list[float] = []
    try:
        for _ in range(_ROUNDS):
            alone.append(bare())
            for count, engine in engines.items():
                rates[count].append(throughput(engine, pixels, effort.seconds))
    finally:
        for engine in engines.values():
            engine.close()
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
    batch = [pixels[index % len(pixels)] for index in range(engine.max_batch_size)]

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
    batch = [pixels[index % len(pixels)] for index in range(engine.max_batch_size)]

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
    engine: DeviceEngine, device: Device, pixels: Sequence[Pixels], batches: int
) -> dict[str, int]:
    """Return the device memory in use after a tenth of the batches and after all, of all sizes."""
    sizes = engine.buckets
    used = []
    for share in (0.1, 0.9):
        for turn in range(round(batches * share)):
            images = sizes[turn % len(sizes)]
            engine.run(turn % engine.slots, [pixels[turn % len(pixels)]] * images)
        device.use()
        free, total = device.memory()
        used.append(total - free)
    return {"batches": batches, "early_bytes": used[0], "late_bytes": used[1]}


def as_rows(measured: Sequence[Bucket]) -> list[dict[str, object]]:
    """Return buckets as JSON takes them."""
    return [asdict(bucket) for bucket in measured]


def _latencies(engine: DeviceEngine, batch: Sequence[Pixels], effort: Effort) -> list[float]:
    times = []
    for run in range(-effort.warm_up, effort.runs):
        started = time.perf_counter()
        engine.run(0, batch)
        if run >= 0:
            times.append(time.perf_counter() - started)
    return times


def _ms(times: Sequence[float], percentile: float) -> float:
    return 1e3 * float(np.percentile(times, percentile))
