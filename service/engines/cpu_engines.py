"""The engines that run on a CPU, and the precisions of the bundles that each engine serves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from tidegate.service.cpu import usable_cores
from tidegate.service.engines.base import Engine
from tidegate.service.engines.onnxruntime import session
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.engines.openvino import runtime as openvino
from tidegate.service.engines.openvino.engine import OpenVinoEngine
from tidegate.service.errors import EngineUnavailable

log = logging.getLogger(__name__)


class OpenOnCpu(Protocol):
    """Loads a sealed graph whose backbone was sealed in `precision`."""

    def __call__(
        self,
        model: Path,
        *,
        slots: int = 1,
        threads_per_slot: int = 1,
        buckets: Sequence[int] = (1,),
        precision: str = "fp32",
    ) -> Engine: ...


@dataclass(frozen=True, slots=True)
class CpuEngine:
    """An engine on the CPU: its name, how it is opened, and its runtime's name and version."""

    name: str
    open: OpenOnCpu
    runtime: Callable[[], str]


ONNX = CpuEngine("onnx-cpu", OnnxEngine, session.runtime)
OPENVINO = CpuEngine("openvino", OpenVinoEngine, openvino.runtime)
CPU_ENGINES = {engine.name: engine for engine in (OPENVINO, ONNX)}  # the last needs least memory
_PRECISIONS = {"openvino": ("fp32", "bf16", "int8"), "onnx-cpu": ("fp32", "fp16", "int8")}
# In int8 the two round differently: the gate is calibrated for ONNX Runtime, unless the bundle
# names the other one (EngineConfig.for_calibration).
_CHOSEN = {"openvino": ("fp32", "bf16"), "onnx-cpu": ("fp32", "fp16", "int8")}
_ON_GPUS = ("fp32", "fp16", "int8")
_MOST_FOR_ONE = 8  # threads for a single image


def single_image_threads(slots: int) -> int:
    """Return the threads of an engine for a single image, next to one of `slots` slots."""
    return min(slots, usable_cores(), _MOST_FOR_ONE)


def check_precision(engine: str, precision: str, device: str = "CPU") -> None:
    """Raise EngineUnavailable, with the alternative, if an engine serves no bundles in it.

    `device` is what the engine openvino computes on.
    """
    if engine == "openvino" and device != "CPU":
        if precision not in _ON_GPUS:
            raise EngineUnavailable(
                f"The bundle is in {precision}, which only a CPU computes: set "
                "TIDEGATE_OPENVINO_DEVICE=CPU, or serve the model's bundle in another precision."
            )
        return
    if precision in _PRECISIONS.get(engine, _ON_GPUS):
        return
    others = [name for name, served in _PRECISIONS.items() if precision in served]
    raise EngineUnavailable(
        f"The bundle is in {precision}, which engine {engine} does not compute: set "
        f"TIDEGATE_ENGINE={others[0]} (`tidegate classify`: --engine {others[0]}), or serve the "
        "model's bundle in another precision."
    )


def engines_for(name: str, precision: str) -> list[CpuEngine]:
    """Return the engine `name`, or for auto all that can serve a bundle in `precision` here.

    Raises EngineUnavailable, with the reason, if there is none.
    """
    if name != "auto":
        check_precision(name, precision)
        return [CPU_ENGINES[name]]
    engines = [each for each in CPU_ENGINES.values() if precision in _CHOSEN[each.name]]
    # If it is the only one, its own error says what is missing.
    if OPENVINO in engines and len(engines) > 1 and not _has_openvino(precision):
        engines.remove(OPENVINO)
    return engines


def calibrated_on(precision: str, engine: str | None = None) -> CpuEngine:
    """Return the engine whose numbers the gate of a bundle in `precision` is calibrated for.

    `engine` is what the manifest names; None: it follows from the precision.
    """
    if engine is not None:
        return CPU_ENGINES[engine]
    return next(CPU_ENGINES[name] for name in reversed(_CHOSEN) if precision in _CHOSEN[name])


def _has_openvino(precision: str) -> bool:
    """Return whether OpenVINO is installed and computes in `precision`; log why not."""
    if find_spec("openvino") is None:
        return False
    try:
        openvino.check_device("CPU", precision)
    except EngineUnavailable as error:
        log.info("engine openvino is not available: %s", error)
        return False
    return True
