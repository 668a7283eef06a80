"""A sealed graph on TensorRT or TensorRT-RTX: one copy of the weights, one context per slot."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tidegate.service.engines.cuda.base import Address, Cuda, Device, StreamHandle
from tidegate.service.engines.faults import OutOfDeviceMemory
from tidegate.service.engines.gpu_engine import Tensor
from tidegate.service.engines.tensorrt.build import (
    PRODUCTS,
    Progress,
    build_flags,
    build_plan,
    create,
    load_tensorrt,
    logger_for,
)
from tidegate.service.engines.tensorrt.plan_cache import PlanCache, PlanKey
from tidegate.service.errors import EngineUnavailable
from tidegate.service.files import sha256_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Toolkit:
    """A loaded TensorRT: its module, its logger, and the name of the engine."""

    engine: str  # tensorrt or tensorrt-rtx
    trt: ModuleType
    logger: Any

    @property
    def version(self) -> str:
        """Return product and version."""
        return f"{PRODUCTS[self.engine]} {self.trt.__version__}"


class EngineError(Exception):
    """TensorRT could not run a batch; the text contains its own errors."""


def open_toolkit(engine: str) -> Toolkit:
    """Load TensorRT for `engine`. Raises EngineUnavailable if it is missing."""
    trt = load_tensorrt(engine)
    return Toolkit(engine, trt, logger_for(trt))


def plan_key(
    toolkit: Toolkit,
    cuda: Cuda,
    device: Device,
    model: Path,
    buckets: Sequence[int],
    precision: str,
) -> PlanKey:
    """Return the key of a model's plan for a device."""
    major, minor = device.compute_capability
    return PlanKey(
        model_sha256=sha256_of(model),
        tensorrt=toolkit.version,
        cuda=cuda.version,
        gpu=device.name,
        compute_capability=f"{major}.{minor}",
        precision=precision,
        buckets=tuple(buckets),
        flags=build_flags(toolkit.trt),
    )


def ensure_plan(
    toolkit: Toolkit,
    cache: PlanCache,
    key: PlanKey,
    model: Path,
    progress: Progress | None = None,
) -> bytes:
    """Return the plan for a key, cached or newly built, which takes minutes for a large network."""

    def build() -> bytes:
        log.info("building a %s plan of %s for %s", toolkit.version, model, key.gpu)
        known = cache.known_timing(key) if toolkit.engine == "tensorrt" else None
        plan, timing = build_plan(
            toolkit.trt, toolkit.logger, model, key.buckets, timing=known, progress=progress
        )
        if timing:
            cache.keep_timing(key, timing)
        return plan

    return cache.ensure(key, build)


def open_program(
    toolkit: Toolkit,
    cache: PlanCache,
    key: PlanKey,
    model: Path,
    progress: Progress | None = None,
) -> TensorRtProgram:
    """Return the program of a cached plan. A plan that the runtime rejects is rebuilt once.

    The device must be current. Raises EngineUnavailable.
    """
    errors = ""
    for last in (False, True):
        plan = ensure_plan(toolkit, cache, key, model, progress)
        runtime = create(toolkit.trt.Runtime, toolkit.logger)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is not None:
            return TensorRtProgram(toolkit, runtime, engine)
        errors = toolkit.logger.recent_errors()
        cache.drop(key)
        if not last:
            log.warning("cannot load the cached plan (%s); rebuilding it", errors)
    raise EngineUnavailable(f"{toolkit.version} cannot load the plan that it built: {errors}")


class TensorRtProgram:
    """An engine with its weights on the device."""

    def __init__(self, toolkit: Toolkit, runtime: Any, engine: Any) -> None:
        # RTX captures only plans built without run-time allocation, which these are not.
        self.capturable = toolkit.engine == "tensorrt"
        self._toolkit = toolkit
        self._runtime = runtime  # must outlive its engine
        self._engine = engine
        trt = toolkit.trt
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.outputs = {
            name: Tensor(np.dtype(trt.nptype(engine.get_tensor_dtype(name))), self._row(name))
            for name in names
            if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT
        }
        height, width, _ = self._row("pixels")
        self.input_size: tuple[int, int] = height, width
        self.execution_bytes = int(engine.device_memory_size_v2)

    def execution(self, device: Device) -> TensorRtExecution:
        context = self._engine.create_execution_context(*self._settings())
        if context is None:
            errors = self._toolkit.logger.recent_errors()
            raise OutOfDeviceMemory(f"TensorRT could not create an execution context: {errors}")
        return TensorRtExecution(self._toolkit.logger, context, self.input_size)

    def _settings(self) -> tuple[Any, ...]:
        """Return RTX's settings: compile the kernels of a shape on its first run, in warm-up.

        By default they are compiled in the background, while batches run slower kernels.
        """
        if self._toolkit.engine == "tensorrt":
            return ()
        strategy = self._toolkit.trt.DynamicShapesKernelSpecializationStrategy
        settings = self._engine.create_runtime_config()
        settings.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER
        return (settings,)

    def _row(self, name: str) -> tuple[int, ...]:
        return tuple(self._engine.get_tensor_shape(name))[1:]


class TensorRtExecution:
    """An execution context, bound again whenever the batch size changes."""

    def __init__(self, logger: Any, context: Any, size: tuple[int, int]) -> None:
        self._logger = logger
        self._context = context
        self._size = size
        self._bound = 0

    def enqueue(
        self, batch: int, pixels: Address, outputs: Mapping[str, Address], stream: StreamHandle
    ) -> None:
        if batch != self._bound:
            self._bound = 0  # in case a call below fails
            shape = (batch, *self._size, 3)
            self._check(self._context.set_input_shape("pixels", shape), f"the shape {shape}")
            for name, address in {"pixels": pixels, **outputs}.items():
                self._check(self._context.set_tensor_address(name, address), f"the tensor {name}")
            self._bound = batch
        self._check(self._context.execute_async_v3(stream), f"a batch of {batch}")

    def _check(self, done: bool, what: str) -> None:
        """Raise EngineError with TensorRT's errors if a call returned False."""
        if not done:
            raise EngineError(f"TensorRT rejected {what}: {self._logger.recent_errors()}")
