"""Build a TensorRT plan from a sealed graph: strongly typed, two profiles, every output.

The same code serves TensorRT 10.16 and 11 and TensorRT-RTX, which share a Python API.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tidegate.service.errors import EngineUnavailable

log = logging.getLogger(__name__)

PRODUCTS = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
# Either module works: NVIDIA's source packages only re-export the bindings.
_MODULES = {
    "tensorrt": ("tensorrt", "tensorrt_bindings"),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
_OPTIMISATION_LEVEL = 3
_SMALL_BATCH = 4  # batches up to this size have kernels that are chosen for a single image
Progress = Callable[[str, int, int], None]  # phase, steps done, total steps


def load_tensorrt(engine: str) -> ModuleType:
    """Return the module of `engine`, one of PRODUCTS. Raises EngineUnavailable if it is missing.

    Creates no `Runtime`, which has terminated processes on machines without a GPU.
    """
    tried = []
    for name in _MODULES[engine]:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            tried.append(str(error))
    raise EngineUnavailable(
        f"Engine {engine} needs {PRODUCTS[engine]} ({tried[0]}): pip install 'tidegate[{engine}]'."
    )


def logger_for(trt: ModuleType) -> Any:
    """Return a TensorRT logger that forwards to ours and keeps errors for the exceptions' text."""

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]  # known when it is loaded
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._lock = threading.Lock()  # guards _errors: TensorRT logs from any thread
            self._errors: dict[int, list[str]] = {}  # by thread

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                with self._lock:
                    errors = self._errors.setdefault(threading.get_ident(), [])
                    del errors[:-4]
                    errors.append(message)
                log.error("%s", message)
            elif severity <= trt.ILogger.WARNING:
                log.info("%s", message)

        def recent_errors(self) -> str:
            """Return this thread's errors since the last call, at most five, and clear them."""
            with self._lock:
                errors = self._errors.pop(threading.get_ident(), [])
            return "; ".join(errors) or "no reason given"

        def errors_of_all_threads(self) -> str:
            """Return the same of all threads, for a build, which has threads of its own."""
            with self._lock:
                errors = [error for of_thread in self._errors.values() for error in of_thread]
                self._errors.clear()
            return "; ".join(errors) or "no reason given"

    return Logger()


def create(kind: Callable[[Any], Any], logger: Any) -> Any:
    """Create TensorRT's Builder or Runtime. Raises EngineUnavailable if CUDA is incompatible."""
    try:
        return kind(logger)
    except TypeError as error:  # the bindings raise it for a null pointer
        raise EngineUnavailable(
            f"TensorRT failed to start: {logger.errors_of_all_threads()}"
        ) from error


def build_flags(trt: ModuleType) -> tuple[str, ...]:
    """Return the build options that are part of a plan's key, sorted."""
    return tuple(
        sorted(
            [
                f"optimisation={_OPTIMISATION_LEVEL}",
                f"small-batches={_SMALL_BATCH}",
                "strongly-typed",
                *(["no-tf32"] if hasattr(trt.BuilderFlag, "TF32") else []),
            ]
        )
    )


def profiles_of(buckets: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return (smallest, tuned for, largest) batch of each profile.

    Kernels are chosen for one size of a profile: for a single image, and for full batches.
    """
    smallest, largest = buckets[0], buckets[-1]
    small = min(_SMALL_BATCH, largest)
    if smallest > small or small == largest:
        return [(smallest, largest, largest)]
    return [(smallest, smallest, small), (small + 1, largest, largest)]


def build_plan(
    trt: ModuleType,
    logger: Any,
    model: Path,
    buckets: Sequence[int],
    *,
    timing: bytes | None = b"",
    progress: Progress | None = None,
) -> tuple[bytes, bytes]:
    """Return (plan, timing cache) of a sealed graph for batches of 1 to the largest bucket.

    `timing` is the cache of earlier builds; None for TensorRT-RTX, which measures nothing during a
    build. Raises EngineUnavailable with TensorRT's error text.
    """
    # The parser owns objects that the network refers to, so it must outlive the build.
    builder, network, _parser = parsed(trt, logger, model)
    config = builder.create_builder_config()
    config.builder_optimization_level = _OPTIMISATION_LEVEL
    config.max_aux_streams = 0  # the slots already run concurrently
    config.clear_flag(trt.BuilderFlag.TF32)  # the gate was not calibrated with its 10-bit mantissa
    pixels = network.get_input(0)
    _, *image = pixels.shape
    for sizes in profiles_of(buckets):
        profile = builder.create_optimization_profile()
        profile.set_shape(pixels.name, *((images, *image) for images in sizes))
        config.add_optimization_profile(profile)
    cache = None if timing is None else _timing_cache(config, timing)
    if progress is not None:
        config.progress_monitor = _monitor(trt, progress)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineUnavailable(f"TensorRT cannot build {model}: {logger.errors_of_all_threads()}")
    return bytes(plan), bytes(cache.serialize()) if cache is not None else b""


def parsed(trt: ModuleType, logger: Any, model: Path) -> tuple[Any, Any, Any]:
    """Return (builder, network, parser) of a sealed graph. Raises EngineUnavailable."""
    builder = create(trt.Builder, logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model)):
        errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        hint = ""
        if "DequantizeLinear" in errors:
            hint = " TensorRT needs an int8 bundle that was made with --int8-for tensorrt."
        errors = " ".join(errors.split()).rstrip(".")
        raise EngineUnavailable(f"TensorRT cannot read {model}: {errors}.{hint}")
    return builder, network, parser


def _strongly_typed(trt: ModuleType) -> int:
    # In TensorRT 11 every network is strongly typed, and the flag may be missing.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _timing_cache(config: Any, content: bytes) -> Any:
    """Return the build's cache of measured kernels, initialised from `content` if it is valid."""
    cache = config.create_timing_cache(content)
    # Invalid: damaged, or of another version or GPU.
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _monitor(trt: ModuleType, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Reports the outermost phase only. TensorRT calls it from its own threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._outermost: tuple[str, int] | None = None

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if not parent:
                self._outermost = phase, steps
                progress(phase, 0, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            if self._outermost is not None and phase == self._outermost[0]:
                progress(phase, step + 1, self._outermost[1])
            return True  # False would cancel the build

        def phase_finish(self, phase: str) -> None:
            if self._outermost is not None and phase == self._outermost[0]:
                progress(phase, self._outermost[1], self._outermost[1])

    return Monitor()
