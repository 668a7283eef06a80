"""Time the road of images without HTTP: decoders, scheduler and the engine's slots."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from tidegate.service.batching.decoders import Decoders
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.latency import LatencyModel
from tidegate.service.batching.placement import DecodePlacement
from tidegate.service.batching.policy import Limits
from tidegate.service.batching.scheduler import Scheduler
from tidegate.service.cpu import usable_cores
from tidegate.service.engines.base import PARTS
from tidegate.service.engines.config import WarmEngine
from tidegate.service.engines.multi_device import Fleet
from tidegate.service.metrics import Metrics
from tidegate.service.types import Pixels, Priority

_DEADLINE_S = 60.0
_TIMEOUT_S = 60.0


def drive(
    warm: WarmEngine,
    work: Sequence[Callable[[], Pixels]],
    *,
    seconds: float,
    clients: int,
    decode_threads: int = 0,
) -> dict[str, float]:
    """Keep `clients` images in progress for `seconds`; return rates and shares of time.

    `work` are functions that decode JPEG bytes, or return existing pixels. The shares are of the
    total time of all cores, and of the device. Raises RuntimeError if the device is lost or a batch
    does not end.
    """
    return asyncio.run(_drive(warm, work, seconds, clients, decode_threads or usable_cores()))


async def _drive(
    warm: WarmEngine,
    work: Sequence[Callable[[], Pixels]],
    seconds: float,
    clients: int,
    decode_threads: int,
) -> dict[str, float]:
    engine, metrics = warm.engine, Metrics("report")
    running: list[asyncio.Task[None]] = []
    failures: list[str] = []

    def fail(reason: str) -> None:
        failures.append(reason)
        for task in running:
            task.cancel()

    loop = asyncio.get_running_loop()
    decoders = Decoders(decode_threads, lambda why: loop.call_soon_threadsafe(fail, why))
    lane = Lane(
        engine,
        LatencyModel(warm.latency_s),
        Limits(max(warm.latency_s), max_queue=4 * clients),
    )
    scheduler = Scheduler(
        lane,
        placement=DecodePlacement(decoders, None),
        engine_timeout_s=_TIMEOUT_S,
        metrics=metrics,
        on_failure=fail,
    )
    end = time.monotonic() + seconds
    decode_s = 0.0
    images = 0

    async def client(index: int) -> None:
        nonlocal decode_s, images
        turn = index
        while time.monotonic() < end:
            ticket = scheduler.admit(lane, time.monotonic() + _DEADLINE_S, Priority.INTERACTIVE)
            try:
                answer = await scheduler.run(ticket, work[turn % len(work)])
            finally:
                scheduler.leave(ticket)
            turn += clients
            images += 1
            decode_s += answer.decode_s

    started = time.monotonic()
    running += [asyncio.create_task(client(index)) for index in range(clients)]
    errors = await _errors_of(running)
    took_s = time.monotonic() - started
    decoders.close()
    await asyncio.to_thread(scheduler.close, _TIMEOUT_S)
    if failures:
        raise RuntimeError(failures[0])
    if errors:
        raise errors[0]
    sample = metrics.registry.get_sample_value
    parts_s = {
        part: sample("tidegate_batch_duration_seconds_sum", {"part": part}) or 0.0 for part in PARTS
    }
    batches = sample("tidegate_batch_size_count") or 1.0
    devices = len(engine.engines) if isinstance(engine, Fleet) else 1
    return {
        "images_per_s": images / took_s,
        "images_per_batch": (sample("tidegate_batch_size_sum") or 0.0) / batches,
        "decode_share": decode_s / (took_s * usable_cores()),
        # Slots overlap, so compute time may be counted twice: this is an upper bound.
        "device_compute_share": parts_s["compute"] / (took_s * devices),
        "device_copy_share": (parts_s["copy_in"] + parts_s["copy_out"]) / (took_s * devices),
    }


async def _errors_of(running: Sequence[asyncio.Task[None]]) -> list[Exception]:
    """Wait for all, or until one fails: then cancel the others, which may never be answered."""
    await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
    for task in running:
        task.cancel()
    outcomes = await asyncio.gather(*running, return_exceptions=True)
    return [outcome for outcome in outcomes if isinstance(outcome, Exception)]
