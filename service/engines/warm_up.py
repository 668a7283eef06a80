"""Warm up an engine and measure it: the latency of each batch size, and which sizes are worth it.

Measured too: whether an engine on all cores, or a CUDA graph, is clearly faster.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from statistics import median
from typing import Protocol

import numpy as np

from tidegate.service.engines.base import Engine
from tidegate.service.engines.faults import Fault, fault_of
from tidegate.service.engines.time_limit import TimeLimit
from tidegate.service.types import Pixels

log = logging.getLogger(__name__)

# Required gains, as ratios of throughput or of latency:
WORTH_IT = 1.03  # a larger batch doubles the latency, so it must give 3 % more images/s
_WORTH_CAPTURING = 1.01  # a CUDA graph
WORTH_ALL_CORES = 1.15  # an engine on all cores, which needs a second copy of the weights
_AROUND_S = 0.0005  # a batch's time outside the engine: waking its slot, notifying the event loop
ROUNDS = 9
_CLEARLY = 0.6  # of the comparisons must show the gain; of 9 rounds 6
_TRIAL_S = 0.05
_SINGLE_IMAGE_S = 0.5  # longer than most disturbances
_LEAST_RUNS = 3


class Capturing(Protocol):
    """An engine whose batches can run as CUDA graphs."""

    def capture(self, bucket: int) -> None: ...

    def release(self, bucket: int) -> None: ...

    def forget(self, bucket: int) -> None: ...


def measure_batch_sizes(
    engine: Engine, buckets: Sequence[int], *, stop_early: bool, limit: TimeLimit | None = None
) -> dict[int, float]:
    """Run every bucket on all slots concurrently; return the seconds per batch of each bucket.

    The least disturbed round counts. With `stop_early`, stops at the first bucket that gives too
    little throughput over the previous one. The two are measured in alternation, so that a change
    of the machine's speed affects both. Always stops at a bucket that the device lacks memory for,
    unless that is the first; logs a warning then. The first bucket is measured whatever the limit,
    a further one only if there is time.
    """
    image, limit = random_image(engine), limit or TimeLimit()
    latency_s: dict[int, float] = {}
    try:
        for bucket in buckets[: 1 if stop_early else None]:
            took_s = _a_few_rounds(engine, image, bucket, latency_s, limit)
            if not took_s:
                break
            latency_s[bucket] = _least_disturbed(took_s)
        for before, bucket in pairwise(buckets if stop_early else ()):
            if not limit.allows(ROUNDS * _pair_s(latency_s, bucket), _larger_than(before)):
                break
            large_s = _if_worth_it(engine, image, before, bucket, limit)
            if large_s is None:
                break
            latency_s[bucket] = large_s
    except Exception as error:  # the runtimes' exceptions share no base class
        if not latency_s or fault_of(error) is not Fault.MEMORY:
            raise
        largest = max(latency_s)
        log.warning("device memory low: using batches of at most %d: %s", largest, error)
    return latency_s


def _a_few_rounds(
    engine: Engine, image: Pixels, bucket: int, latency_s: Mapping[int, float], limit: TimeLimit
) -> list[list[float]]:
    """Time `bucket` in several rounds; fewer if the time is over, and none but for the first."""
    if latency_s and not limit.allows(_round_s(latency_s, bucket), _larger_than(max(latency_s))):
        return []
    took_s = [time_all_slots(engine, (image,) * bucket)]
    while len(took_s) < _LEAST_RUNS and limit.left_s > _round_s({bucket: max(took_s[0])}, bucket):
        took_s.append(time_all_slots(engine, (image,) * bucket))
    return took_s


def _round_s(latency_s: Mapping[int, float], bucket: int) -> float:
    """Return about how long a round of `bucket` takes, from the time of the largest known one."""
    largest = max(latency_s)
    batch_s = latency_s[largest] * bucket / largest
    return batch_s + max(_TRIAL_S, _LEAST_RUNS * batch_s)


def _pair_s(latency_s: Mapping[int, float], bucket: int) -> float:
    """Return about how long a round of the largest known bucket and of `bucket` takes."""
    return _round_s(latency_s, max(latency_s)) + _round_s(latency_s, bucket)


def _larger_than(bucket: int) -> str:
    return f"batches of more than {bucket}"


def _if_worth_it(
    engine: Engine, image: Pixels, before: int, bucket: int, limit: TimeLimit
) -> float | None:
    """Return the seconds of a batch of `bucket`; None if it hardly increases the throughput."""
    sizes = before, bucket
    rounds = limit.rounds(
        lambda: time_in_turns([(engine, (image,) * size) for size in sizes]),
        ROUNDS,
        _larger_than(before),
    )
    if rounds is None:
        return None
    rates = [rate for slots in rounds for rate in rates_in_turns(slots, sizes, _AROUND_S)]
    if not clearly_faster(rates, WORTH_IT):
        return None
    return _least_disturbed(
        [[median(large_s for _, large_s in slot) for slot in slots] for slots in rounds]
    )


def measure_batch_sizes_once(
    engine: Engine, buckets: Sequence[int], limit: TimeLimit
) -> dict[int, float]:
    """Run every bucket on all slots concurrently, in one round; return the seconds per batch.

    The first bucket is run whatever the limit, a further one only if there is time.
    """
    image = random_image(engine)
    latency_s: dict[int, float] = {}
    for bucket in buckets:
        if latency_s and not limit.allows(
            _round_s(latency_s, bucket), _larger_than(max(latency_s))
        ):
            break
        latency_s[bucket] = max(time_all_slots(engine, (image,) * bucket))
    return latency_s


def single_image_trial_s(latency_s: float) -> float:
    """Return about how long `time_single_image` takes for an image of `latency_s`."""
    return max(_SINGLE_IMAGE_S, 2 * ROUNDS * latency_s)


def time_single_image(engine: Engine, all_cores_engine: Engine) -> float | None:
    """Return the seconds of one image on `all_cores_engine`; None if it is hardly faster.

    Both engines are otherwise idle and run in alternation. The median ratio decides, not a count
    of rounds: a gain is large if there is one, but a busy machine hides it in single rounds.
    """
    images = (random_image(engine),)
    all_cores_engine.run(0, images)
    took_s: list[tuple[float, float]] = []
    end = time.perf_counter() + _SINGLE_IMAGE_S
    while len(took_s) < ROUNDS or time.perf_counter() < end:
        took_s.append((_timed(engine, 0, images), _timed(all_cores_engine, 0, images)))
    if median(narrow_s / wide_s for narrow_s, wide_s in took_s) < WORTH_ALL_CORES:
        return None
    return median(wide_s for _, wide_s in took_s)


def time_one_image(engine: Engine) -> float:
    """Return the median seconds of one image on slot 0, after a first run."""
    images = (random_image(engine),)
    engine.run(0, images)
    return median(_timed(engine, 0, images) for _ in range(ROUNDS))


def choose_graphs(engine: Engine, capturing: Capturing, buckets: Sequence[int]) -> list[int]:
    """Use a CUDA graph for each bucket that it makes clearly faster; return those buckets."""
    image, chosen = random_image(engine), []
    for bucket in buckets:
        images = (image,) * bucket
        rounds = []
        try:
            capturing.capture(bucket)
        except Exception as error:  # noqa: BLE001 - the runtimes' exceptions share no base class
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
    """Run the batch repeatedly on all slots concurrently; return each slot's median seconds."""

    slots = time_in_turns([(engine, images)])
    return [median(took_s for (took_s,) in slot) for slot in slots]


def time_in_turns(
    batches: Sequence[tuple[Engine, Sequence[Pixels]]],
) -> list[list[tuple[float, ...]]]:
    """Run one batch after the other, repeatedly, on all slots concurrently.

    Returns each slot's turns: the seconds of every batch. The engines have the same number of
    slots.
    """

    def run(slot: int) -> tuple[float, ...]:
        return tuple(_timed(engine, slot, images) for engine, images in batches)

    def work(slot: int) -> list[tuple[float, ...]]:
        # For a fixed time, not a fixed count, so that all slots stay busy until the end.
        end, turns = time.perf_counter() + _TRIAL_S * len(batches), [run(slot)]
        while time.perf_counter() < end or len(turns) < _LEAST_RUNS:
            turns.append(run(slot))
        return turns

    slots = range(batches[0][0].slots)
    with ThreadPoolExecutor(len(slots)) as pool:
        # The first run of a shape is slower, so it is not timed. It runs apart from the timed ones
        # so that a slot which fails in it raises at once.
        list(pool.map(run, slots))
        return list(pool.map(work, slots))


def run_all_slots(engine: Engine, size: int) -> None:
    """Run one batch of `size` on all slots concurrently, so that the runtime has the memory."""
    images = (random_image(engine),) * size
    with ThreadPoolExecutor(engine.slots) as pool:
        list(pool.map(lambda slot: engine.run(slot, images), range(engine.slots)))


def images_per_s(images: int, took_s: Sequence[float]) -> float:
    """Return the throughput of slots that take `took_s` seconds each per batch of `images`."""
    return sum(images / slot_s for slot_s in took_s)


def rates_in_turns(
    slots: Iterable[Sequence[tuple[float, ...]]], images: Sequence[int], around_s: float = 0.0
) -> list[tuple[float, ...]]:
    """Return the images per second of each slot's turns, for batches of so many images."""
    return [
        tuple(count / (took_s + around_s) for count, took_s in zip(images, turn, strict=True))
        for turns in slots
        for turn in turns
    ]


def _least_disturbed(rounds: Sequence[Sequence[float]]) -> float:
    """Return the seconds of the slowest slot, each slot measured by its best round."""
    best: list[float] = [min(slot) for slot in zip(*rounds, strict=True)]
    return max(best)


def clearly_faster(rates: Sequence[tuple[float, ...]], worth: float) -> bool:
    """Return whether the second rate is at least `worth` times the first in most comparisons.

    A few noisy ones therefore do not change the choice.
    """
    return sum(second >= worth * first for first, second in rates) >= _CLEARLY * len(rates)


def _timed(engine: Engine, slot: int, images: Sequence[Pixels]) -> float:
    started = time.perf_counter()
    engine.run(slot, images)
    return time.perf_counter() - started


def random_image(engine: Engine) -> Pixels:
    height, width = engine.input_size
    rng = np.random.default_rng(0)  # noise: zeros can be cheaper than any photo
    return Pixels(rng.integers(0, 256, (height, width, 3), np.uint8))
