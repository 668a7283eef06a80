"""What a service needs before it is ready: a bundle, warm engines and decoder processes.

It reads files, starts processes and runs the model for seconds or minutes, so it is called on a
thread.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tidegate.service import memory
from tidegate.service.bundle.golden import REDUCED_TOLERANCE, TOLERANCE, check_golden
from tidegate.service.bundle.store import Bundle, open_bundle, read_embedding
from tidegate.service.cpu import usable_cores
from tidegate.service.drift.embedding import Embedding
from tidegate.service.drift.reference import Bins, Reference
from tidegate.service.engines.base import Engine
from tidegate.service.engines.choose import EngineConfig, WarmEngine, open_engine
from tidegate.service.errors import BundleRefused
from tidegate.service.imaging.decoder_pool import DecoderPool
from tidegate.service.imaging.pillow_resize import RESIZES_BY

log = logging.getLogger(__name__)

_MOST_LARGE_DECODERS = 4  # processes of some 50 MB each
_MOST_CONFUSED = 50  # classes: beyond, a bundle seals its commonest confusions alone


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that is warm and has passed its golden probes, and what goes with it."""

    bundle: Bundle
    reference: Reference  # of the drift monitors
    warm: WarmEngine
    pool: DecoderPool | None  # None: large images are decoded like the others


def prepare(path: Path, config: EngineConfig, max_image_pixels: int) -> Prepared:
    """Open the bundle at `path`, warm every bucket of every slot and pass the golden probes.

    Raises BundleRefused or EngineUnavailable.
    """
    bundle = open_bundle(path)
    manifest = bundle.manifest
    log.info("opened bundle %s %s, digest %s", manifest.name, manifest.version, bundle.digest[:12])
    reference = _drift_reference(bundle)
    warm = open_engine(bundle.model_path, config, manifest.engine.buckets, manifest.precision)
    probes = _pass_golden(bundle, warm.engine)
    if warm.wide is not None:
        _pass_golden(bundle, warm.wide)
    memory.use_huge_pages()
    _log_warm(warm, probes)
    return Prepared(bundle, reference, warm, _decoder_pool(bundle, max_image_pixels))


def _log_warm(warm: WarmEngine, probes: int) -> None:
    info = warm.engine.info
    log.info(
        "warm: %s on %s, %d slots × %d threads%s, batches up to %d, %d golden probes passed, "
        "resizing by %s",
        info.runtime,
        info.device,
        warm.engine.slots,
        info.threads_per_slot,
        f" ({warm.wide.info.threads_per_slot} for an image that is alone)" if warm.wide else "",
        max(warm.latency_s),
        probes,
        RESIZES_BY,
    )
    if RESIZES_BY == "pillow":
        log.warning(
            "the compiled resize is missing, so preprocessing takes several times as long: "
            "install Tidegate where there is a C compiler, or from a wheel that was built with one"
        )


def _pass_golden(bundle: Bundle, engine: Engine) -> int:
    """Ask the golden probes of each device; returns how many there are. Raises BundleRefused."""
    task = bundle.manifest.task
    if engine.input_size != (task.height, task.width):
        raise BundleRefused(f"{bundle.path}: the graph's images are not of the manifest's size.")
    exact = engine.info.device == "cpu" or engine.info.precision == "fp32"
    first = {engine.device_of(slot): slot for slot in reversed(range(engine.slots))}
    probes = 0
    for _, slot in sorted(first.items()):
        run = partial(engine.run, slot)
        probes = check_golden(bundle, run, TOLERANCE if exact else REDUCED_TOLERANCE)
    return probes


def _decoder_pool(bundle: Bundle, max_image_pixels: int) -> DecoderPool | None:
    """Start the processes that decode large images: half as many as cores, so that they leave room.

    None if the system does not allow them: then large images are decoded like the others.
    """
    if sys.platform != "linux":
        return None
    processes = min(_MOST_LARGE_DECODERS, max(1, usable_cores() // 2))
    try:
        return DecoderPool(processes, bundle.manifest.preprocess, max_image_pixels)
    except OSError as error:
        log.warning("large images are decoded in this process: no other can be started: %s", error)
        return None


def _drift_reference(bundle: Bundle) -> Reference:
    reference, evaluation = bundle.manifest.reference, bundle.manifest.evaluation
    classes = bundle.manifest.task.classes
    confusion = None
    if evaluation is not None and classes <= _MOST_CONFUSED:
        confusion = np.zeros((classes, classes), np.int64)
        for pair in evaluation.confusions:
            confusion[pair.actual, pair.predicted] = pair.images
    embedding = read_embedding(bundle)
    return Reference(
        class_fractions=np.array(reference.class_fraction),
        samples=reference.samples,
        alpha_reject=bundle.gate.alpha_reject,
        calibration_samples=bundle.gate.calibration_size,
        histograms={
            name: Bins(np.array(histogram.edges), np.array(histogram.counts, np.int64))
            for name, histogram in reference.histograms.items()
        },
        confusion=confusion,
        embedding=Embedding(**embedding, samples=reference.samples) if embedding else None,
    )
