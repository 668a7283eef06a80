"""Choose the CPU engine's slots, threads and batch sizes: by measurement, unless they are set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from tidegate.service.cpu import usable_cores
from tidegate.service.engines import warm_up
from tidegate.service.engines.config import EngineConfig, WarmEngine
from tidegate.service.engines.kept_choices import Choice, KeptChoices, Key, cpu_model
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.engines.onnxruntime.session import runtime
from tidegate.service.files import sha256_of

log = logging.getLogger(__name__)

_WORTH_SHARING = 1.1  # required throughput: cores sharing a batch / one batch per core
_MOST_FOR_ONE = 8  # threads for a single image


def open_on_cpu(
    model: Path, config: EngineConfig, buckets: Sequence[int], precision: str
) -> WarmEngine:
    """Open and warm up ONNX Runtime on the CPU. Raises EngineUnavailable if it does not load.

    An earlier choice for the same graph, settings and machine is used again if a short measurement
    agrees with it. If everything is set, nothing is chosen or kept.
    """
    if config.slots and config.threads_per_slot and config.max_batch_size:
        return _open_as_set(model, config, buckets, precision)
    kept, key = KeptChoices(config.warm_up_cache), _key(model, config, buckets, precision)
    choice = kept.get(key)
    if choice is not None and (warm := _open_as_chosen(model, choice, precision)) is not None:
        log.info("using the kept warm-up choice: %d slots", choice.slots)
        return warm
    warm = _measure(model, config, buckets, precision)
    kept.put(
        key,
        Choice(
            slots=warm.engine.slots,
            threads_per_slot=warm.engine.info.threads_per_slot,
            latency_s=warm.latency_s,
            single_image_s=warm.single_image_s,
        ),
    )
    return warm


def _key(model: Path, config: EngineConfig, buckets: Sequence[int], precision: str) -> Key:
    settings = (config.slots, config.threads_per_slot, config.max_batch_size, *buckets)
    return Key(
        model_sha256=sha256_of(model),
        precision=precision,
        runtime=runtime(),
        settings=",".join(map(str, settings)),
        cores=usable_cores(),
        cpu=cpu_model(),
    )


def _open_as_set(
    model: Path, config: EngineConfig, buckets: Sequence[int], precision: str
) -> WarmEngine:
    engine = OnnxEngine(
        model,
        slots=config.slots,
        threads_per_slot=config.threads_per_slot,
        buckets=buckets,
        precision=precision,
    )
    return WarmEngine(engine, warm_up.measure_batch_sizes_once(engine, buckets))


def _open_as_chosen(model: Path, choice: Choice, precision: str) -> WarmEngine | None:
    """Open the chosen engine and measure it again; None if the durations no longer agree."""
    sizes = sorted(choice.latency_s)
    engine = OnnxEngine(
        model,
        slots=choice.slots,
        threads_per_slot=choice.threads_per_slot,
        buckets=sizes,
        precision=precision,
    )
    latency_s = warm_up.measure_batch_sizes_once(engine, sizes)
    if not choice.agrees_with(latency_s):
        log.info("the kept warm-up choice no longer fits this machine: measuring again")
        engine.close()
        return None
    if choice.single_image_s is None:
        return WarmEngine(engine, latency_s)
    all_cores_engine = _all_cores_engine(model, choice.slots, precision)
    return WarmEngine(engine, latency_s, all_cores_engine, warm_up.time_one_image(all_cores_engine))


def _measure(
    model: Path, config: EngineConfig, buckets: Sequence[int], precision: str
) -> WarmEngine:
    slots, threads = _shape(model, config)
    engine = OnnxEngine(
        model, slots=slots, threads_per_slot=threads, buckets=buckets, precision=precision
    )
    stop_early = not config.max_batch_size
    latency_s = warm_up.measure_batch_sizes(engine, buckets, stop_early=stop_early)
    engine.keep(max(latency_s))
    warm_up.run_all_slots(engine, max(latency_s))
    if not config.threads_per_slot and threads == 1 and slots > 1:
        all_cores_engine = _all_cores_engine(model, slots, precision)
        if single_image_s := warm_up.time_single_image(engine, all_cores_engine):
            return WarmEngine(engine, latency_s, all_cores_engine, single_image_s)
        all_cores_engine.close()
    return WarmEngine(engine, latency_s)


def _all_cores_engine(model: Path, slots: int, precision: str) -> OnnxEngine:
    threads = min(slots, usable_cores(), _MOST_FOR_ONE)
    return OnnxEngine(model, threads_per_slot=threads, precision=precision)


def _shape(model: Path, config: EngineConfig) -> tuple[int, int]:
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
    for shape in candidates:
        if _shares_better(model, best, shape):
            best = shape
    return best


def _shares_better(model: Path, best: tuple[int, int], shared: tuple[int, int]) -> bool:
    engines = [
        OnnxEngine(model, slots=slots, threads_per_slot=threads)
        for slots, threads in (best, shared)
    ]
    images = (warm_up.random_image(engines[0]),)
    rounds = [
        tuple(warm_up.images_per_s(1, warm_up.time_all_slots(engine, images)) for engine in engines)
        for _ in range(warm_up.ROUNDS)
    ]
    for engine in engines:
        engine.close()
    return warm_up.clearly_faster(rounds, _WORTH_SHARING)
