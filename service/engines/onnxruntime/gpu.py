"""ONNX Runtime on a GPU: its CUDA provider, or its TensorRT provider with CUDA behind it."""

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
# What a classifier spends its time on. The runtime itself puts small integers, shapes and indices,
# on the CPU and is right to; one of these there would be a fallback.
_WORK = frozenset({"Conv", "Gemm", "MatMul", "FusedMatMul", "FusedConv", "Attention", "Softmax"})


def cuda_providers(device: int, precision: str = "fp32") -> list[Provider]:
    """Return the CUDA provider for a device, with the options that GPUs are served with."""
    options = {
        "device_id": str(device),
        "arena_extend_strategy": "kSameAsRequested",  # or it doubles, beyond what is needed
        "cudnn_conv_algo_search": "EXHAUSTIVE",  # slow once a shape, and every shape is warmed
        "do_copy_in_default_stream": "1",
        # Its 10 bits are not what the gate was calibrated with. The option takes tensor cores from
        # half precision too; there `refuse_tf32` alone keeps it from the gate's float32.
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
    """Return the TensorRT provider, one profile for all buckets, and CUDA for what it leaves.

    Without fp16 and int8 flags its networks are strongly typed: a sealed graph's own precision.
    `cache` is of this model alone: the runtime finds engines by the graph's names, not its weights.
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
    """Have TensorRT, whose provider has no option for it, compute float32 in float32.

    To be called before NVIDIA's libraries load, which read this once.
    """
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")


class OnnxGpuProgram:
    """A sealed graph in sessions that all slots share, each slot with bindings of its own.

    `session_per_batch`: a session for each batch size. The CUDA provider plans its convolutions
    anew whenever a session sees another shape than the last, which takes many times what they do.
    """

    capturable = False  # the runtime synchronises within a run
    execution_bytes = 0  # its arena grows as it is warmed

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
        """Load `model`, whose slots' addresses are of `memory`, in ONNX Runtime's words.

        Raises EngineUnavailable when the provider does not load, or leaves work to the CPU.
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
        """Return the session for batches of this size, opening it the first time.

        Raises EngineUnavailable.
        """
        key = batch if self._session_per_batch else 0
        with self._opening:
            if key not in self._sessions:
                self._sessions[key] = self._unused.pop() if self._unused else self._open_another()
            return self._sessions[key]


class OnnxGpuExecution:
    """Bindings of one slot's device memory, one per bucket, for its addresses do not change."""

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
        # The session computes on streams of its own, so what it reads must be here by now. It
        # returns when it is done: another slot's copies go on meanwhile.
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
    """Return (height, width) of the pixels a sealed graph takes. Raises EngineUnavailable."""
    session = open_session(model, "onnx-cpu", [(_CPU, {})], {})
    _, height, width, _ = session.get_inputs()[0].shape
    return height, width


def nodes_of(session: Any) -> list[tuple[str, str]]:
    """Return (provider, operator) of every node of a session that records it, as assigned."""
    return [
        (part.ep_name, node.op_type)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]


def refuse_strays(engine: str, nodes: Sequence[tuple[str, str]]) -> None:
    """Raise EngineUnavailable where the CPU would do the engine's work."""
    left = {operator for provider, operator in nodes if provider == _CPU}
    if engine != "onnx-cpu" and (stray := sorted(_WORK & left)):
        raise EngineUnavailable(
            f"Engine {engine} would leave {', '.join(stray)} of this model to the CPU."
        )
    by_provider = Counter(provider for provider, _ in nodes)
    log.info("nodes by provider: %s", dict(by_provider))


def _preload() -> None:
    """Load CUDA and cuDNN from NVIDIA's wheels, where those are what brings them."""
    ort = load_runtime()
    with contextlib.redirect_stdout(io.StringIO()) as said:  # it prints what it does not find
        ort.preload_dlls()
    if text := said.getvalue().strip():
        log.info("%s", text)
