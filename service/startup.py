"""Start serving: open the first bundle, warm up the engine, run the golden probes, start threads.

`prepare` reads files, starts processes and runs the model for seconds or minutes, so it must run on
a thread.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from tidegate.service import memory
from tidegate.service.batching.decoders import Decoders
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.latency import LatencyModel
from tidegate.service.batching.placement import DecodePlacement
from tidegate.service.batching.policy import Limits
from tidegate.service.batching.scheduler import Scheduler
from tidegate.service.bundle.golden import check_decoder, check_golden, golden_tolerance
from tidegate.service.bundle.signature import open_trusted
from tidegate.service.bundle.store import Bundle, check_files
from tidegate.service.bundle_reference import drift_reference
from tidegate.service.cpu import usable_cores
from tidegate.service.drift.reference import Reference
from tidegate.service.engines.base import Engine
from tidegate.service.engines.choose import open_engine
from tidegate.service.engines.config import EngineConfig, WarmEngine
from tidegate.service.errors import BundleRefused
from tidegate.service.imaging import jpeg_window
from tidegate.service.imaging.decoder_pool import DecoderPool
from tidegate.service.imaging.pillow_resize import RESIZES_BY
from tidegate.service.metrics import Metrics

log = logging.getLogger(__name__)

_MOST_LARGE_DECODERS = 4  # processes; each uses about 50 MB


class Owner(Protocol):
    """The owner of the threads that serve a model."""

    def fail(self, reason: str) -> None:
        """Stop serving; called on the event loop."""
        ...

    def fail_from_thread(self, reason: str) -> None:
        """Stop serving; called on any thread."""
        ...


@dataclass(frozen=True, slots=True)
class ServingConfig:
    """The settings for serving a model; 0 means measured or derived at warm-up."""

    engine: EngineConfig
    max_queue: int
    default_deadline_s: float
    decode_threads: int
    max_image_pixels: int
    engine_timeout_s: float
    large_decoders: int = 0


@dataclass(frozen=True, slots=True)
class Workers:
    """The threads and processes that all models share."""

    scheduler: Scheduler
    decoders: Decoders | None  # None: the slots decode
    large_decoders: Decoders | None  # for the images that `pool` decodes
    pool: DecoderPool | None  # None: large images are decoded like the others

    def close(self, timeout_s: float) -> bool:
        """Stop the threads and processes; return False if a slot does not end. Blocks."""
        for decoders in (self.decoders, self.large_decoders):
            if decoders is not None:
                decoders.close()
        if self.pool is not None:
            self.pool.close()
        return self.scheduler.close(timeout_s)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A warm version of a model that has passed its golden probes, and its drift reference."""

    bundle: Bundle
    reference: Reference  # for the drift monitors
    warm: WarmEngine


def prepare(path: Path, trusted_keys: Path | None, config: EngineConfig) -> Prepared:
    """Open the bundle at `path`, warm up every bucket of every slot and run the golden probes.

    With a folder of trusted keys, one of them must have signed the bundle. Raises BundleRefused,
    KeyUnusable or EngineUnavailable.
    """
    bundle = open_trusted(path, trusted_keys)
    manifest = bundle.manifest
    log.info("opened bundle %s %s, digest %s", manifest.name, manifest.version, bundle.short_digest)
    check_decoder(bundle)
    reference = drift_reference(bundle)
    config = config.for_calibration(manifest.gate.calibrated_for_engine)
    with memory.blocks_apart():
        warm = open_engine(bundle.model_path, config, manifest.engine.buckets, manifest.precision)
    probes = pass_golden(bundle, warm.engine)
    if warm.all_cores_engine is not None:
        pass_golden(bundle, warm.all_cores_engine)
    check_files(path, manifest)  # the runtime has read them since they were checked
    memory.use_huge_pages()
    _log_warm(warm, probes)
    _log_unmeasured(warm, config.warm_up_limit_s)
    return Prepared(bundle, reference, warm)


def lane_of(prepared: Prepared, config: ServingConfig, weight: float) -> Lane:
    """Return the lane of a prepared version."""
    warm = prepared.warm
    return Lane(
        warm.engine,
        LatencyModel(warm.latency_s, warm.single_image_s),
        Limits(
            max_batch_size=max(warm.latency_s),
            max_queue=config.max_queue,
            side_by_side=_side_by_side(warm.engine),
            default_deadline_s=config.default_deadline_s,
        ),
        warm.all_cores_engine,
        prepared.bundle.manifest.name,
        weight,
        warm.unmeasured,
    )


def start_workers(
    lane: Lane,
    pool: DecoderPool | None,
    config: ServingConfig,
    metrics: Metrics,
    owner: Owner,
    weight_of: Callable[[str], float],
) -> Workers:
    """Start the threads that serve the first lane and all later ones.

    Their failures are reported to `owner`; `weight_of` returns a client's share of the queue.
    """
    decoders = _decoders(config.decode_threads, lane.engine, owner.fail_from_thread)
    large_decoders = _large_decoders(pool, owner.fail_from_thread)
    scheduler = Scheduler(
        lane,
        placement=DecodePlacement(decoders, large_decoders),
        engine_timeout_s=config.engine_timeout_s,
        metrics=metrics,
        on_failure=owner.fail,
        weight_of=weight_of,
    )
    metrics.follow_queue(lambda: scheduler.waiting)
    return Workers(scheduler, decoders, large_decoders, pool)


def _log_warm(warm: WarmEngine, probes: int) -> None:
    info = warm.engine.info
    log.info(
        "warm-up done: %s on %s, %d slots × %d threads%s, batches up to %d, "
        "%d golden probes passed, resize %s, JPEGs decoded %s",
        info.runtime,
        info.device,
        warm.engine.slots,
        info.threads_per_slot,
        f", single-image threads {warm.all_cores_engine.info.threads_per_slot}"
        if warm.all_cores_engine
        else "",
        max(warm.latency_s),
        probes,
        RESIZES_BY,
        "in part" if jpeg_window.AVAILABLE else "whole",
    )
    if RESIZES_BY == "pillow":
        log.warning(
            "the compiled resize is missing, so preprocessing takes several times as long: "
            "install Tidegate on a machine with a C compiler, or from a wheel built with one"
        )


def _log_unmeasured(warm: WarmEngine, limit_s: float) -> None:
    if warm.unmeasured:
        log.warning(
            "warm-up had no time to measure %s within %g s, so they are not used; "
            "TIDEGATE_WARM_UP_LIMIT_S is the limit",
            ", ".join(warm.unmeasured),
            limit_s,
        )


def pass_golden(bundle: Bundle, engine: Engine) -> int:
    """Run the golden probes on each device; return their number. Raises BundleRefused."""
    check_input_size(bundle, engine)
    first = {engine.device_of(slot): slot for slot in reversed(range(engine.slots))}
    probes = 0
    for _, slot in sorted(first.items()):
        run = partial(engine.run, slot)
        probes = check_golden(bundle, run, golden_tolerance(engine.info))
    return probes


def check_input_size(bundle: Bundle, engine: Engine) -> None:
    """Raise BundleRefused if the graph takes images of another size than the manifest says."""
    task = bundle.manifest.task
    if engine.input_size != (task.height, task.width):
        raise BundleRefused(
            f"{bundle.path}: the graph's input size differs from the manifest's image size."
        )


def start_decoder_pool(max_image_pixels: int, processes: int = 0) -> DecoderPool | None:
    """Start the processes that decode large images; 0: half of the cores stays free for others.

    Return None if the system does not allow them: then large images are decoded like the others.
    Blocks for 1 to 2 s.
    """
    if sys.platform != "linux":
        return None
    processes = processes or min(_MOST_LARGE_DECODERS, max(1, usable_cores() // 2))
    try:
        return DecoderPool(processes, max_image_pixels)
    except OSError as error:
        log.warning(
            "cannot start decoder processes, so large images are decoded in this process: %s", error
        )
        return None


def _side_by_side(engine: Engine) -> int:
    """Return how many slots run without slowing each other down: the CPU slots, or the GPUs."""
    if engine.info.device == "cpu":
        return engine.slots
    return len({engine.device_of(slot) for slot in range(engine.slots)})


def _decoders(threads: int, engine: Engine, on_death: Callable[[str], object]) -> Decoders | None:
    """Return decoder threads, or None if the slots decode (CPU slots with one thread each).

    A slot with several threads would decode on one of them and leave the others idle.
    """
    if not threads and engine.info.device == "cpu" and engine.info.threads_per_slot == 1:
        return None
    return Decoders(threads or usable_cores(), on_death)


def _large_decoders(pool: DecoderPool | None, on_death: Callable[[str], object]) -> Decoders | None:
    """Return a thread for each process of the pool; None without a pool."""
    if pool is None:
        return None
    return Decoders(pool.processes, on_death, name="decode-large", nice=0)
