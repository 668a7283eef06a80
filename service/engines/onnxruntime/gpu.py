"""ONNX Runtime on a GPU: its CUDA provider, or its TensorRT provider with CUDA as fallback."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tidegate.service.engines.cuda.base import Address, Device, StreamHandle
from tidegate.service.engines.gpu_program import Tensor
from tidegate.service.engines.onnxruntime.graphs import OnnxGraph, OnnxGraphs
from tidegate.service.engines.onnxruntime.session import (
    Provider,
    freeing,
    open_session,
    preload,
)
from tidegate.service.errors import EngineUnavailable

log = logging.getLogger(__name__)

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"
_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
_NO_ENTRIES: Mapping[str, str] = MappingProxyType({})
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
    again whenever the shape changes, which takes many times as long as the convolutions. `entries`
    are their session config entries. `graphs`: CUDA graphs may be captured, in further sessions.
    """

    execution_bytes = 0  # the runtime allocates its own memory, during warm-up
    in_stream_order = False  # the sessions have their own streams

    def __init__(
        self,
        model: Path,
        engine: str,
        providers: Sequence[Provider],
        device: Device,
        memory: str = "cuda",
        *,
        session_per_batch: bool = False,
        entries: Mapping[str, str] = _NO_ENTRIES,
        graphs: bool = False,
    ) -> None:
        """Load `model`. `memory` is ONNX Runtime's name for the device type of the addresses.

        Raises EngineUnavailable if the provider does not load, or leaves work to the CPU.
        """
        preload()
        record = {"session.record_ep_graph_assignment_info": "1", **entries}
        first = open_session(model, engine, providers, record)
        self._open_another = partial(open_session, model, engine, providers, entries)
        self._unused = [first]
        self._sessions: dict[int, _Session] = {}
        self._opening = threading.Lock()
        self._session_per_batch = session_per_batch
        self._may_capture = graphs
        self._shrink = False  # whether the next run frees unused memory of the arena
        self._where = memory, device.index
        self.nodes = nodes_of(first)
        refuse_strays(engine, self.nodes)
        _, height, width, _ = first.get_inputs()[0].shape
        self.input_size: tuple[int, int] = height, width
        self.outputs = {
            output.name: Tensor(_TYPES[output.type], tuple(output.shape[1:]))
            for output in first.get_outputs()
        }
        open_with_graphs = partial(open_session, model, engine, _with_graphs(providers), {})
        self._graphs = OnnxGraphs(open_with_graphs, self.bind)

    def execution(self, device: Device, workspace: Address) -> OnnxGpuExecution:
        return OnnxGpuExecution(self)

    def can_capture(self, device: Device) -> bool:
        """Return whether ONNX Runtime can capture: it requires all nodes on CUDA."""
        return self._may_capture and {provider for provider, _ in self.nodes} == {_CUDA}

    def graph(self, device: Device, workspace: Address) -> OnnxGraph:
        return self._graphs.graph(device)

    def keep(self, largest: int) -> None:
        with self._opening:
            if self._session_per_batch:
                for batch in [batch for batch in self._sessions if batch > largest]:
                    del self._sessions[batch]
                    self._shrink = True

    def run_options(self) -> Any:
        """Return the options of the next run; None, or that the arena frees what is unused."""
        if not self._shrink:
            return None
        self._shrink = False
        where, index = self._where
        return freeing(f"gpu:{index}" if where == "cuda" else "cpu:0")

    def session(self, batch: int) -> _Session:
        """Return the session for batches of this size; open it on the first call.

        Raises EngineUnavailable.
        """
        key = batch if self._session_per_batch else 0
        with self._opening:
            if key not in self._sessions:
                opened = self._unused.pop() if self._unused else self._open_another()
                self._sessions[key] = _Session(opened)
            return self._sessions[key]

    def bind(
        self, session: Any, batch: int, pixels: Address, outputs: Mapping[str, Address]
    ) -> Any:
        """Return a session's bindings to device memory."""
        binding = session.io_binding()
        shape = (batch, *self.input_size, 3)
        binding.bind_input("pixels", *self._where, np.uint8, shape, pixels)
        for name, address in outputs.items():
            tensor = self.outputs[name]
            binding.bind_output(name, *self._where, tensor.dtype, (batch, *tensor.row), address)
        return binding


@dataclass(frozen=True, slots=True)
class _Session:
    """A session, and its bindings to the memory of each execution, by batch size."""

    session: Any
    bound: dict[tuple[OnnxGpuExecution, int], Any] = field(default_factory=dict)


class OnnxGpuExecution:
    """One slot's part of a program. The addresses of a batch size never change."""

    def __init__(self, program: OnnxGpuProgram) -> None:
        self._program = program

    def enqueue(
        self, batch: int, pixels: Address, outputs: Mapping[str, Address], stream: StreamHandle
    ) -> None:
        """Compute a batch; return when it is computed. Other slots' copies continue meanwhile."""
        shared = self._program.session(batch)
        if (binding := shared.bound.get((self, batch))) is None:
            binding = self._program.bind(shared.session, batch, pixels, outputs)
            shared.bound[self, batch] = binding
        shared.session.run_with_iobinding(binding, self._program.run_options())


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


def _with_graphs(providers: Sequence[Provider]) -> list[Provider]:
    """Return providers of which the first captures CUDA graphs."""
    (name, options), *others = providers
    return [(name, {**options, "enable_cuda_graph": "1"}), *others]
