"""Choose the CPU engine, slots, threads and batch sizes: by measurement, unless they are set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tidegate.service.cpu import usable_cores
from tidegate.service.engines import warm_up
from tidegate.service.engines.base import Engine
from tidegate.service.engines.config import EngineConfig, WarmEngine
from tidegate.service.engines.cpu_engines import CpuEngine, single_image_threads
from tidegate.service.engines.kept_choices import Choice, KeptChoices, Key, cpu_model
from tidegate.service.engines.time_limit import TimeLimit
from tidegate.service.errors import EngineUnavailable
from tidegate.service.files import sha256_of
from tidegate.service.types import Pixels

log = logging.getLogger(__name__)

_WORTH_SHARING = 1.1  # required throughput: cores sharing a batch / one batch per core
_WORTH_ANOTHER = 1.05  # required throughput: another engine / ONNX Runtime
_COMPARED = 4  # images in a batch by which engines are compared


def open_on_cpu(
    engines: Sequence[CpuEngine],
    model: Path,
    config: EngineConfig,
    buckets: Sequence[int],
    precision: str,
) -> WarmEngine:
    """Open and warm up one of `engines`, the fastest. Raises EngineUnavailable if it does not load.

    An earlier choice for the same graph, settings and machine is used again if a short measurement
    agrees with it. If everything is set, nothing is chosen or kept. What there is no time to
    measure is as if it were no faster.
    """
    limit = TimeLimit(config.warm_up_limit_s)
    candidates = {engine.name: _Sealed(model, precision, engine) for engine in engines}
    if config.slots and config.threads_per_slot and config.max_batch_size and len(engines) == 1:
        return _open_as_set(candidates[engines[0].name], config, buckets, limit)
    kept, key = KeptChoices(config.warm_up_cache), _key(model, engines, config, buckets, precision)
    choice = kept.get(key)
    if (
        choice is not None
        and (chosen := candidates.get(choice.engine)) is not None
        and (warm := _open_as_chosen(chosen, choice)) is not None
    ):
        log.info("using the kept warm-up choice: %s, %d slots", choice.engine, choice.slots)
        return warm
    fastest = _fastest(list(candidates.values()), buckets, limit)
    warm = _measure(fastest, config, buckets, limit)
    kept.put(
        key,
        Choice(
            engine=warm.engine.info.name,
            slots=warm.engine.slots,
            threads_per_slot=warm.engine.info.threads_per_slot,
            latency_s=warm.latency_s,
            single_image_s=warm.single_image_s,
            unmeasured=warm.unmeasured,
        ),
    )
    return warm


@dataclass(frozen=True, slots=True)
class _Sealed:
    """A sealed graph and the engine that runs it."""

    model: Path
    precision: str
    by: CpuEngine

    def open(self, slots: int = 1, threads: int = 1, buckets: Sequence[int] = (1,)) -> Engine:
        return self.by.open(
            self.model,
            slots=slots,
            threads_per_slot=threads,
            buckets=buckets,
            precision=self.precision,
        )

    def open_on_all_cores(self, slots: int) -> Engine:
        """Open it for a single image."""
        return self.open(threads=single_image_threads(slots))


def _key(
    model: Path,
    engines: Sequence[CpuEngine],
    config: EngineConfig,
    buckets: Sequence[int],
    precision: str,
) -> Key:
    limit_s, largest = config.warm_up_limit_s, config.max_batch_size
    settings = (config.slots, config.threads_per_slot, largest, limit_s, *buckets)
    return Key(
        model_sha256=sha256_of(model),
        precision=precision,
        runtime=", ".join(engine.runtime() for engine in engines),
        settings=",".join(map(str, settings)),
        cores=usable_cores(),
        cpu=cpu_model(),
    )


def _fastest(candidates: Sequence[_Sealed], buckets: Sequence[int], limit: TimeLimit) -> _Sealed:
    """Return the last candidate, which needs the least memory, or one that is clearly faster.

    Another one that does not load is left out.
    """
    *others, best = candidates
    size = max(bucket for bucket in buckets if bucket <= _COMPARED)
    for other in others:
        try:
            engine = other.open(usable_cores(), buckets=buckets)
        except EngineUnavailable as error:
            log.warning("engine %s is not compared: %s", other.by.name, error)
            continue
        both = [best.open(usable_cores(), buckets=buckets), engine]
        if _is_faster(both, size, _WORTH_ANOTHER, limit, f"the engine {other.by.name}"):
            best = other
    return best


def _open_as_set(
    sealed: _Sealed, config: EngineConfig, buckets: Sequence[int], limit: TimeLimit
) -> WarmEngine:
    engine = sealed.open(config.slots, config.threads_per_slot, buckets)
    latency_s = warm_up.measure_batch_sizes_once(engine, buckets, limit)
    return WarmEngine(engine, latency_s, unmeasured=tuple(limit.unmeasured))


def _open_as_chosen(sealed: _Sealed, choice: Choice) -> WarmEngine | None:
    """Open the chosen engine and measure it again; None if the durations no longer agree."""
    sizes = sorted(choice.latency_s)
    engine = sealed.open(choice.slots, choice.threads_per_slot, sizes)
    latency_s = warm_up.measure_batch_sizes_once(engine, sizes, TimeLimit())
    if not choice.agrees_with(latency_s):
        log.info("the kept warm-up choice no longer fits this machine: measuring again")
        engine.close()
        return None
    if choice.single_image_s is None:
        return WarmEngine(engine, latency_s, unmeasured=choice.unmeasured)
    all_cores_engine = sealed.open_on_all_cores(choice.slots)
    single_image_s = warm_up.time_one_image(all_cores_engine)
    return WarmEngine(engine, latency_s, all_cores_engine, single_image_s, choice.unmeasured)


def _measure(
    sealed: _Sealed, config: EngineConfig, buckets: Sequence[int], limit: TimeLimit
) -> WarmEngine:
    slots, threads = _shape(sealed, config, limit)
    engine = sealed.open(slots, threads, buckets)
    stop_early = not config.max_batch_size
    latency_s = warm_up.measure_batch_sizes(engine, buckets, stop_early=stop_early, limit=limit)
    engine.keep(max(latency_s))
    warm_up.run_all_slots(engine, max(latency_s))
    is_narrow = not config.threads_per_slot and threads == 1 and slots > 1
    trial_s = warm_up.single_image_trial_s(latency_s[min(latency_s)])
    if is_narrow and limit.allows(trial_s, "threads for a single image"):
        all_cores_engine = sealed.open_on_all_cores(slots)
        if single_image_s := warm_up.time_single_image(engine, all_cores_engine):
            return WarmEngine(
                engine, latency_s, all_cores_engine, single_image_s, tuple(limit.unmeasured)
            )
        all_cores_engine.close()
    return WarmEngine(engine, latency_s, unmeasured=tuple(limit.unmeasured))


def _shape(sealed: _Sealed, config: EngineConfig, limit: TimeLimit) -> tuple[int, int]:
    """Return (slots, threads per slot): as set, or the candidate with the highest throughput."""
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
    for slots, threads in candidates:
        both = [sealed.open(*best), sealed.open(slots, threads)]
        if _is_faster(both, 1, _WORTH_SHARING, limit, f"{slots} slots × {threads} threads"):
            best = (slots, threads)
    return best


def _is_faster(
    engines: Sequence[Engine], size: int, worth: float, limit: TimeLimit, what: str
) -> bool:
    """Return whether the second engine clearly gives `worth` times the images; close both.

    If there is no time to measure that, `what` is noted, and the answer is no.
    """
    images = (warm_up.random_image(engines[0]),) * size
    rounds = limit.rounds(lambda: _compared(engines, images), warm_up.ROUNDS, what)
    for engine in engines:
        engine.close()
    return rounds is not None and warm_up.clearly_faster(list(chain(*rounds)), worth)


def _compared(engines: Sequence[Engine], images: Sequence[Pixels]) -> list[tuple[float, ...]]:
    """Return the images per second of both engines in each turn of a round.

    Engines with different numbers of slots cannot take turns on each: then the round is one.
    """
    if len({engine.slots for engine in engines}) == 1:
        slots = warm_up.time_in_turns([(engine, images) for engine in engines])
        return warm_up.rates_in_turns(slots, [len(images)] * len(engines))
    took_s = [warm_up.time_all_slots(engine, images) for engine in engines]
    return [tuple(warm_up.images_per_s(len(images), slots_s) for slots_s in took_s)]
