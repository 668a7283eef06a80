"""Run an engine warm, and measure: how long each batch size takes, which of them pays, and how."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from statistics import median
from typing import Protocol

import numpy as np

from tidegate.service.engines.base import Engine
from tidegate.service.types import Pixels

log = logging.getLogger(__name__)

_WORTH_IT = 1.02  # a batch twice as large, and half as prompt, must give 2 % more images a second
_AROUND_S = 0.0005  # what a batch takes outside the engine: waking its slot, telling the loop
_WORTH_CAPTURING = 1.01
_WORTH_WIDENING = 1.15  # a second copy of the weights must make one image that much faster
ROUNDS = 9
_CLEARLY = 6  # rounds that must show it: a gain of just that much passes in one start of four
_TRIAL_S = 0.05
_ALONE_S = 0.5  # longer than most disturbances
_LEAST_RUNS = 3


class Capturing(Protocol):
    """An engine whose batches can run as CUDA graphs."""

    def capture(self, bucket: int) -> None: ...

    def release(self, bucket: int) -> None: ...

    def forget(self, bucket: int) -> None: ...


def measure_batch_sizes(
    engine: Engine, buckets: Sequence[int], *, stop_early: bool
) -> dict[int, float]:
    """Run every bucket on all slots at once; returns the seconds that a batch of each took.

    They are those of its least disturbed round. With `stop_early`, goes no further than larger
    batches pay: a bucket takes turns with the one before it, so that a machine which changes pace
    does so for both.
    """
    image = random_image(engine)
    latency_s = {}
    for bucket in buckets[: 1 if stop_early else None]:
        took_s = [time_all_slots(engine, (image,) * bucket) for _ in range(_LEAST_RUNS)]
        latency_s[bucket] = _least_disturbed(took_s)
    for before, bucket in pairwise(buckets if stop_early else ()):
        rounds = [
            (time_all_slots(engine, (image,) * before), time_all_slots(engine, (image,) * bucket))
            for _ in range(ROUNDS)
        ]
        rates = [
            (images_per_s(before, small_s, _AROUND_S), images_per_s(bucket, large_s, _AROUND_S))
            for small_s, large_s in rounds
        ]
        if not clearly_faster(rates, _WORTH_IT):
            break
        latency_s[bucket] = _least_disturbed([large_s for _, large_s in rounds])
    return latency_s


def time_single_image(engine: Engine, all_cores_engine: Engine) -> float | None:
    """Return the seconds of one image on `wide`, which uses all cores; None where it hardly gains.

    Both are otherwise idle, and take turns. A machine that is busy hides the gain, which is large
    where there is one; so the median decides, not what most rounds show beyond doubt.
    """
    images = (random_image(engine),)
    all_cores_engine.run(0, images)
    took_s: list[tuple[float, float]] = []
    end = time.perf_counter() + _ALONE_S
    while len(took_s) < ROUNDS or time.perf_counter() < end:
        took_s.append((_timed(engine, 0, images), _timed(all_cores_engine, 0, images)))
    if median(narrow_s / wide_s for narrow_s, wide_s in took_s) < _WORTH_WIDENING:
        return None
    return median(wide_s for _, wide_s in took_s)


def choose_graphs(engine: Engine, capturing: Capturing, buckets: Sequence[int]) -> list[int]:
    """Have each bucket run as a CUDA graph if that is faster here; returns those that do."""
    image, chosen = random_image(engine), []
    for bucket in buckets:
        images = (image,) * bucket
        rounds = []
        try:
            capturing.capture(bucket)
        except Exception as error:  # noqa: BLE001 - a runtime may refuse in any way it likes
            log.info("no CUDA graph for batches of %d: %s", bucket, error)
            capturing.forget(bucket)
            continue
        capturing.release(bucket)
        for _ in range(ROUNDS):
            eager_s = time_all_slots(engine, images)
            capturing.capture(bucket)
            rounds.append(
                (
                    images_per_s(bucket, eager_s),
                    images_per_s(bucket, time_all_slots(engine, images)),
                )
            )
            capturing.release(bucket)
        if clearly_faster(rounds, _WORTH_CAPTURING):
            capturing.capture(bucket)
            chosen.append(bucket)
        else:
            capturing.forget(bucket)
    return chosen


def time_all_slots(engine: Engine, images: Sequence[Pixels]) -> list[float]:
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


def images_per_s(images: int, took_s: Sequence[float], around_s: float = 0.0) -> float:
    """Return the images a second of slots that take so long for a batch of so many."""
    return sum(images / (slot_s + around_s) for slot_s in took_s)


def _least_disturbed(rounds: Sequence[Sequence[float]]) -> float:
    """Return the slowest slot's seconds, each slot's of its best round."""
    best: list[float] = [min(slot) for slot in zip(*rounds, strict=True)]
    return max(best)


def clearly_faster(rates: Sequence[tuple[float, ...]], worth: float) -> bool:
    """Tell whether the second of two is `worth` times as fast as the first in most rounds.

    Noise, which makes a round say anything, so leaves things as they are.
    """
    return sum(second >= worth * first for first, second in rates) >= _CLEARLY


def _timed(engine: Engine, slot: int, images: Sequence[Pixels]) -> float:
    started = time.perf_counter()
    engine.run(slot, images)
    return time.perf_counter() - started


def random_image(engine: Engine) -> Pixels:
    height, width = engine.input_size
    rng = np.random.default_rng(0)  # noise: zeros can be cheaper than any photo
    return Pixels(rng.integers(0, 256, (height, width, 3), np.uint8))
