"""ONNX Runtime on a GPU: its CUDA provider, or its TensorRT provider with CUDA as fallback."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.service.engines.cuda.base import Address, Device, StreamHandle
from tidegate.service.engines.gpu_engine import Tensor
from tidegate.service.engines.onnxruntime.session import Provider, load_runtime, open_session
from tidegate.service.errors import EngineUnavailable

log = logging.getLogger(__name__)

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"
_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
# The operators that take a classifier's time. The runtime rightly places small integer work
# (shapes, indices) on the CPU, but one of these operators on the CPU would be a fallback.
_WORK = frozenset({"Conv", "Gemm", "MatMul", "FusedMatMul", "FusedConv", "Attention", "Softmax"})


def cuda_providers(device: int, precision: str = "fp32") -> list[Provider]:
    """Return the CUDA provider for a device, with its options."""
    options = {
        "device_id": str(device),
        "arena_extend_strategy": "kSameAsRequested",  # the default doubles the arena
        "cudnn_conv_algo_search": "EXHAUSTIVE",  # slow once per shape, and warm-up runs every shape
        "do_copy_in_default_stream": "1",
        # The gate was not calibrated with TF32's 10-bit mantissa. Disabling it here would also
        # disable tensor cores for fp16; for fp16, `refuse_tf32` protects the gate's float32.
        "use_tf32": "1" if precision == "fp16" else "0",
    }
    return [(_CUDA, options)]


def tensorrt_providers(
    device: int,
    buckets: Sequence[int],
    size: tuple[int, int],
    cache: Path,
    precision: str = "fp32",
) -> list[Provider]:
    """Return the TensorRT provider, with one profile for all buckets, and CUDA as its fallback.

    Without fp16 and int8 flags its networks are strongly typed: they keep the graph's precision.
    `cache` must belong to this model only, since the runtime identifies cached engines by the
    names in the graph, not by its weights.
    """
    rows = {"min": buckets[0], "opt": buckets[-1], "max": buckets[-1]}
    shapes = {
        f"trt_profile_{which}_shapes": f"pixels:{images}x{size[0]}x{size[1]}x3"
        for which, images in rows.items()
    }
    options = {
        "device_id": str(device),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
        **shapes,
    }
    return [(_TENSORRT, options), *cuda_providers(device, precision)]


def refuse_tf32() -> None:
    """Disable TF32 for TensorRT, whose provider has no option for it.

    Call it before NVIDIA's libraries load, because they read the variable once.
    """
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")


class OnnxGpuProgram:
    """A sealed graph in sessions that all slots share; each slot has its own bindings.

    `session_per_batch`: one session for each batch size. The CUDA provider plans its convolutions
    again whenever the shape changes, which takes many times as long as the convolutions.
    """

    capturable = False  # the runtime synchronises within a run
    execution_bytes = 0  # unknown: the runtime's arena grows during warm-up

    def __init__(
        self,
        model: Path,
        engine: str,
        providers: Sequence[Provider],
        device: Device,
        memory: str = "cuda",
        *,
        session_per_batch: bool = False,
    ) -> None:
        """Load `model`. `memory` is ONNX Runtime's name for the device type of the addresses.

        Raises EngineUnavailable if the provider does not load, or leaves work to the CPU.
        """
        _preload()
        record = {"session.record_ep_graph_assignment_info": "1"}
        first = open_session(model, engine, providers, record)
        self._open_another = partial(open_session, model, engine, providers, {})
        self._unused = [first]
        self._sessions: dict[int, Any] = {}
        self._opening = threading.Lock()
        self._session_per_batch = session_per_batch
        self.where = memory, device.index
        self.nodes = nodes_of(first)
        refuse_strays(engine, self.nodes)
        _, height, width, _ = first.get_inputs()[0].shape
        self.input_size: tuple[int, int] = height, width
        self.outputs = {
            output.name: Tensor(_TYPES[output.type], tuple(output.shape[1:]))
            for output in first.get_outputs()
        }

    def execution(self, device: Device) -> OnnxGpuExecution:
        return OnnxGpuExecution(self, device)

    def session(self, batch: int) -> Any:
        """Return the session for batches of this size; open it on the first call.

        Raises EngineUnavailable.
        """
        key = batch if self._session_per_batch else 0
        with self._opening:
            if key not in self._sessions:
                self._sessions[key] = self._unused.pop() if self._unused else self._open_another()
            return self._sessions[key]


class OnnxGpuExecution:
    """One slot's bindings to its device memory, kept per bucket: the addresses never change."""

    def __init__(self, program: OnnxGpuProgram, device: Device) -> None:
        self._program = program
        self._device = device
        self._bound: dict[int, tuple[Any, Any]] = {}  # batch → its session, its bindings

    def enqueue(
        self, batch: int, pixels: Address, outputs: Mapping[str, Address], stream: StreamHandle
    ) -> None:
        if batch not in self._bound:
            self._bound[batch] = self._bind(batch, pixels, outputs)
        session, binding = self._bound[batch]
        # The session computes on its own streams, so the copy of its input must be complete. It
        # returns when the batch is computed; other slots' copies continue meanwhile.
        self._device.synchronize(stream)
        session.run_with_iobinding(binding)

    def _bind(self, batch: int, pixels: Address, outputs: Mapping[str, Address]) -> tuple[Any, Any]:
        session, where = self._program.session(batch), self._program.where
        binding = session.io_binding()
        shape = (batch, *self._program.input_size, 3)
        binding.bind_input("pixels", *where, np.uint8, shape, pixels)
        for name, address in outputs.items():
            tensor = self._program.outputs[name]
            binding.bind_output(name, *where, tensor.dtype, (batch, *tensor.row), address)
        return session, binding


def sealed_size(model: Path) -> tuple[int, int]:
    """Return (height, width) of a sealed graph's input. Raises EngineUnavailable."""
    session = open_session(model, "onnx-cpu", [(_CPU, {})], {})
    _, height, width, _ = session.get_inputs()[0].shape
    return height, width


def nodes_of(session: Any) -> list[tuple[str, str]]:
    """Return (provider, operator) of every node; the session must record its assignments."""
    return [
        (part.ep_name, node.op_type)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]


def refuse_strays(engine: str, nodes: Sequence[tuple[str, str]]) -> None:
    """Raise EngineUnavailable if a GPU engine would run its main operators on the CPU."""
    left = {operator for provider, operator in nodes if provider == _CPU}
    if engine != "onnx-cpu" and (stray := sorted(_WORK & left)):
        raise EngineUnavailable(
            f"Engine {engine} would run {', '.join(stray)} of this model on the CPU."
        )
    by_provider = Counter(provider for provider, _ in nodes)
    log.info("nodes by provider: %s", dict(by_provider))


def _preload() -> None:
    """Load CUDA and cuDNN from NVIDIA's wheels, if they are installed."""
    ort = load_runtime()
    with contextlib.redirect_stdout(io.StringIO()) as printed:  # it prints missing libraries
        ort.preload_dlls()
    if text := printed.getvalue().strip():
        log.info("%s", text)
