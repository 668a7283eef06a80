"""A sealed graph on TensorRT or TensorRT-RTX: one copy of the weights for all slots."""

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
from tidegate.service.engines.gpu_program import DeviceGraph, Tensor
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
        cuda=str(cuda.major),
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
        errors = toolkit.logger.errors_of_all_threads()
        cache.drop(key)
        if not last:
            log.warning("cannot load the cached plan (%s); rebuilding it", errors)
    raise EngineUnavailable(f"{toolkit.version} cannot load the plan that it built: {errors}")


class TensorRtProgram:
    """An engine with its weights on the device."""

    in_stream_order = True

    def __init__(self, toolkit: Toolkit, runtime: Any, engine: Any) -> None:
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
        self.execution_bytes = int(engine.device_memory_size_v2)  # the most of all profiles
        self._largest = [
            int(engine.get_tensor_profile_shape("pixels", profile)[2][0])
            for profile in range(engine.num_optimization_profiles)
        ]

    def execution(self, device: Device, workspace: Address) -> TensorRtExecution:
        return TensorRtExecution(self, workspace)

    def can_capture(self, device: Device) -> bool:
        """Return whether it has CUDA graphs.

        RTX captures only plans built without run-time allocation, which these are not.
        """
        return self._toolkit.engine == "tensorrt" and device.can_capture

    def graph(self, device: Device, workspace: Address) -> DeviceGraph:
        return DeviceGraph(device, self.execution(device, workspace))

    def keep(self, largest: int) -> None:
        """Do nothing: a context is for all batch sizes of its profile."""

    def profile_of(self, batch: int) -> int:
        """Return the index of the profile for a batch size."""
        return next(index for index, largest in enumerate(self._largest) if batch <= largest)

    def context(self, profile: int, workspace: Address, stream: StreamHandle) -> Any:
        """Return a new context that computes in the block at `workspace`.

        Raises OutOfDeviceMemory or EngineError.
        """
        context = self._engine.create_execution_context(self._settings())
        if context is None:
            errors = self._toolkit.logger.recent_errors()
            raise OutOfDeviceMemory(f"TensorRT could not create an execution context: {errors}")
        if self.execution_bytes:
            context.set_device_memory(workspace, self.execution_bytes)
        if len(self._largest) > 1:
            chosen = context.set_optimization_profile_async(profile, stream)
            self.check(chosen, f"the profile {profile}")
        return context

    def check(self, done: bool, what: str) -> None:
        """Raise EngineError with TensorRT's errors if a call returned False."""
        if not done:
            errors = self._toolkit.logger.recent_errors()
            raise EngineError(f"TensorRT rejected {what}: {errors}")

    def _settings(self) -> Any:
        """Return how a context is created: in memory that the slot owns.

        RTX compiles the kernels of a shape on its first run, in warm-up. By default it compiles
        them in the background, while batches run slower kernels.
        """
        trt = self._toolkit.trt
        in_a_workspace = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._toolkit.engine == "tensorrt":
            return in_a_workspace
        strategy = trt.DynamicShapesKernelSpecializationStrategy
        settings = self._engine.create_runtime_config()
        settings.set_execution_context_allocation_strategy(in_a_workspace)
        settings.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER
        return settings

    def _row(self, name: str) -> tuple[int, ...]:
        return tuple(self._engine.get_tensor_shape(name))[1:]


class TensorRtExecution:
    """An execution context for each profile, bound again whenever the batch size changes.

    A context is created by the first batch of its profile. Several contexts may use one profile at
    once: TensorRT shares profiles since version 10, although a comment in its header still denies
    it.
    """

    def __init__(self, program: TensorRtProgram, workspace: Address) -> None:
        self._program = program
        self._workspace = workspace
        self._contexts: dict[int, Any] = {}  # by profile
        self._bound: dict[int, int] = {}  # profile → batch size

    def enqueue(
        self, batch: int, pixels: Address, outputs: Mapping[str, Address], stream: StreamHandle
    ) -> None:
        program, profile = self._program, self._program.profile_of(batch)
        if profile not in self._contexts:
            self._contexts[profile] = program.context(profile, self._workspace, stream)
        context = self._contexts[profile]
        if batch != self._bound.get(profile):
            self._bound[profile] = 0  # in case a call below fails
            shape = (batch, *program.input_size, 3)
            program.check(context.set_input_shape("pixels", shape), f"the shape {shape}")
            for name, address in {"pixels": pixels, **outputs}.items():
                bound = context.set_tensor_address(name, address)
                program.check(bound, f"the tensor {name}")
            self._bound[profile] = batch
        program.check(context.execute_async_v3(stream), f"a batch of {batch}")
