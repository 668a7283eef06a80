"""Open GPU engines: for every requested device, a program of the requested runtime."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tidegate.service.engines.base import Engine, EngineInfo
from tidegate.service.engines.cuda.base import Cuda, Device
from tidegate.service.engines.cuda.open import open_cuda, open_devices
from tidegate.service.engines.gpu_engine import DeviceEngine
from tidegate.service.engines.gpu_program import Program
from tidegate.service.engines.multi_device import Fleet
from tidegate.service.engines.onnxruntime.arena import USE_SHARED, share_arena
from tidegate.service.engines.onnxruntime.gpu import (
    OnnxGpuProgram,
    cuda_providers,
    refuse_tf32,
    sealed_size,
    tensorrt_providers,
)
from tidegate.service.engines.onnxruntime.session import runtime
from tidegate.service.engines.tensorrt.build import PRODUCTS, Progress, load_tensorrt
from tidegate.service.engines.tensorrt.plan_cache import PlanCache
from tidegate.service.engines.tensorrt.program import (
    ensure_plan,
    open_program,
    open_toolkit,
    plan_key,
)
from tidegate.service.engines.warm_up import choose_graphs
from tidegate.service.errors import EngineUnavailable

GPU_ENGINES = ("tensorrt", "tensorrt-rtx", "onnx-tensorrt", "onnx-cuda")  # best first
_SLOTS = 3  # two that overlap, and one whose batch is topped up
# TensorRT-RTX's support matrix: these, and every capability from 12.0.
_OF_RTX = frozenset({(7, 5), (8, 6), (8, 9)})


@dataclass(frozen=True, slots=True)
class GpuConfig:
    """The operator's GPU settings."""

    devices: tuple[int, ...] = (0,)
    cuda_binding: str = "cuda-bindings"
    plan_cache: Path = Path("~/.cache/tidegate/plans")
    arena_bytes: int = 0  # bounds ONNX Runtime's device memory; 0: no bound
    spin: bool = False  # wait for a batch on the CPU, instead of blocking

    def plans(self) -> PlanCache:
        """Return the folder of TensorRT plans. Raises EngineUnavailable."""
        return PlanCache(self.plan_cache.expanduser())


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """The model and engine to load."""

    model: Path
    engine: str  # one of GPU_ENGINES
    buckets: Sequence[int]
    precision: str  # of the sealed backbone
    progress: Progress | None = None  # called while a plan is built


def open_gpu_engine(request: EngineRequest, config: GpuConfig, slots: int = 0) -> Engine:
    """Load a sealed graph on every configured device, with `slots` slots each (0: the default).

    Raises EngineUnavailable if there is no GPU, or the engine does not load.
    """
    refuse_tf32()
    cuda = open_cuda(config.cuda_binding, spin=config.spin)
    with contextlib.ExitStack() as opened:  # closes the devices if a later one fails
        engines = []
        devices = open_devices(cuda, config.devices)
        for device in devices:
            opened.callback(device.close)
        for device in devices:
            device.use()
            program, made_by = open_program_for(request, config, cuda, device)
            info = EngineInfo(
                name=request.engine,
                runtime=f"{made_by}, CUDA {cuda.version}, {cuda.name}",
                device=f"cuda:{device.index} {device.name}",
                precision=request.precision,
                threads_per_slot=1,
            )
            buckets = batch_sizes(request.engine, request.buckets)
            engines.append(
                DeviceEngine(device, program, info, slots=slots or _SLOTS, buckets=buckets)
            )
        opened.pop_all()
    return engines[0] if len(engines) == 1 else Fleet(engines)


def build_plans(request: EngineRequest, config: GpuConfig) -> list[Path]:
    """Ensure a TensorRT plan for every configured device; return the plans' paths.

    Raises EngineUnavailable if there is no GPU, no TensorRT, or the engine has no plans.
    """
    if request.engine not in PRODUCTS:
        raise EngineUnavailable(
            f"Engine {request.engine} has no plans to build; only {' and '.join(PRODUCTS)} have."
        )
    toolkit, cache = open_toolkit(request.engine), config.plans()
    cuda = open_cuda(config.cuda_binding, spin=config.spin)
    paths = []
    for device in open_devices(cuda, config.devices):
        device.use()
        refuse_device(request.engine, device)
        key = plan_key(toolkit, cuda, device, request.model, request.buckets, request.precision)
        ensure_plan(toolkit, cache, key, request.model, request.progress)
        paths.append(cache.path(key))
    return paths


def refuse_device(engine: str, device: Device) -> None:
    """Raise EngineUnavailable if TensorRT-RTX, which targets PC GPUs, does not support it."""
    capability = device.compute_capability
    if engine == "tensorrt-rtx" and capability < (12, 0) and capability not in _OF_RTX:
        raise EngineUnavailable(
            f"TensorRT-RTX does not support {device.name} (compute capability "
            f"{capability[0]}.{capability[1]}): use tensorrt."
        )


def batch_sizes(engine: str, buckets: Sequence[int]) -> list[int]:
    """Return the batch sizes that an engine runs: the bundle's, and for TensorRT those between.

    A batch of 17 is then padded to 24 instead of 32. A plan is for all sizes, and the executions
    of a slot share their memory, whereas ONNX Runtime would need a further session for each size.
    """
    if engine not in PRODUCTS:
        return list(buckets)
    between = [(low + high) // 2 for low, high in pairwise(buckets) if high - low > 1]
    return sorted({*buckets, *between})


def devices_of(engine: Engine) -> list[DeviceEngine]:
    """Return the engine of each device."""
    engines = engine.engines if isinstance(engine, Fleet) else (engine,)
    return [device for device in engines if isinstance(device, DeviceEngine)]


def choose_all_graphs(engine: Engine, buckets: Sequence[int]) -> list[int]:
    """Use CUDA graphs for the batch sizes they make faster; return those of the first device."""
    chosen = [
        choose_graphs(device, device, buckets)
        for device in devices_of(engine)
        if device.can_capture
    ]
    return chosen[0] if chosen else []


def open_program_for(
    request: EngineRequest, config: GpuConfig, cuda: Cuda, device: Device
) -> tuple[Program, str]:
    """Load a model on a device, which must be current; return (program, runtime's version).

    Raises EngineUnavailable.
    """
    if request.engine in PRODUCTS:
        refuse_device(request.engine, device)
        toolkit = open_toolkit(request.engine)
        key = plan_key(toolkit, cuda, device, request.model, request.buckets, request.precision)
        program = open_program(toolkit, config.plans(), key, request.model, request.progress)
        return program, toolkit.version
    if on_cuda := request.engine == "onnx-cuda":
        providers = cuda_providers(device.index, request.precision)
    else:
        with contextlib.suppress(EngineUnavailable):  # TensorRT may be installed system-wide
            load_tensorrt("tensorrt")  # loads the library that the provider links
        size, folder = sealed_size(request.model), config.plans().folder_of(request.model)
        providers = tensorrt_providers(
            device.index, request.buckets, size, folder, request.precision
        )
    if on_cuda:
        share_arena(device.index, config.arena_bytes)
    in_onnx = OnnxGpuProgram(
        request.model,
        request.engine,
        providers,
        device,
        session_per_batch=on_cuda,
        entries=USE_SHARED if on_cuda else {},
        graphs=on_cuda and not config.arena_bytes,
    )
    return in_onnx, runtime()
