"""A sealed graph in two parts: the network in the bundle's precision, the gate in float32.

OpenVINO's precision hint holds for a whole model. So the graph is cut at `features`: what comes
before computes in the precision of the bundle, and the last layer and the gate in float32, as they
were calibrated.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.service.engines.openvino.runtime import (
    check_device,
    core,
    load_openvino,
    precision_hint,
)
from tidegate.service.errors import BundleRefused, EngineUnavailable

_LOGITS, _FEATURES = "logits", "features"
_SETS = {"sse42", "avx", "avx2", "avx512", "vnni", "amx", "asimd", "sve", "acl"}
_WORK = ("Convolution", "FullyConnected", "MatMul")  # the layers that take a classifier's time


class Program:
    """A graph that is read and cut once, and compiled for one number of images at a time."""

    def __init__(self, model: Path | bytes, precision: str, device: str, threads: int) -> None:
        """Read `model`, whose input is `pixels` and which has at least `logits` and `features`.

        `threads` is for the CPU. Raises EngineUnavailable, or BundleRefused for another graph.
        """
        check_device(device, precision)
        self._device = device
        self._config = {"INFERENCE_PRECISION_HINT": precision_hint(device, precision)}
        if device == "CPU":
            # With one thread in one stream, the calling thread computes, on the core it is on.
            self._config |= {
                "NUM_STREAMS": "1",
                "INFERENCE_NUM_THREADS": str(threads),
                "ENABLE_CPU_PINNING": "NO",
                "ENABLE_HYPER_THREADING": "YES",  # otherwise half of the threads on some machines
            }
        self._exact = {**self._config, "INFERENCE_PRECISION_HINT": "f32"}
        try:
            read = core().read_model(model)
        except Exception as error:  # the runtime's exceptions share no base class
            raise EngineUnavailable(
                f"Engine openvino cannot load {_name(model)}: {error}"
            ) from error
        self.input_size = _image_size(read, model)
        self.outputs = frozenset(name for put in read.outputs for name in put.names)
        self._network, self._gate = _cut(read)
        self._compiling = threading.Lock()

    def request(self, size: int) -> Request:
        """Compile for `size` images; return a request that one thread uses at a time. Thread-safe.

        Raises EngineUnavailable.
        """
        try:
            with self._compiling:  # the shape is set in the graph that is compiled
                return Request(self._compiled(size))
        except Exception as error:  # the runtime's exceptions share no base class
            raise EngineUnavailable(f"Engine openvino cannot compile the model: {error}") from error

    def _compiled(self, size: int) -> tuple[Any, Any]:
        """Return the compiled network and gate. What they share with others is the constants."""
        self._network.reshape({"pixels": [size, *self.input_size, 3]})
        self._gate.reshape(
            {put.any_name: [size, put.partial_shape[1]] for put in self._gate.inputs}
        )
        network = core().compile_model(self._network, self._device, self._config)
        # The gate is small: a copy to another device and back would take longer.
        on_cpu = self._exact if self._device == "CPU" else {"INFERENCE_PRECISION_HINT": "f32"}
        return network, core().compile_model(self._gate, "CPU", on_cpu)


class Request:
    """Runs batches of one size. Its memory is used again by the next run."""

    def __init__(self, compiled: tuple[Any, Any]) -> None:
        network, gate = compiled
        self._network, self._gate = network.create_infer_request(), gate.create_infer_request()
        # The gate reads what the network has written. By place: OpenVINO renames some outputs.
        for written, read in zip(network.outputs, gate.inputs, strict=True):
            self._gate.set_tensor(read, self._network.get_tensor(written))
        self.pixels: NDArray[np.uint8] = self._network.get_input_tensor().data
        self._names = [(name, put) for put in gate.outputs for name in put.names]
        self._compiled = network

    def run(self) -> Mapping[str, NDArray[Any]]:
        """Compute `pixels` [size, H, W, 3]; return the outputs, valid until the next run."""
        self._network.infer(share_outputs=True)
        self._gate.infer(share_outputs=True)
        return {name: self._gate.get_tensor(put).data for name, put in self._names}

    @property
    def instructions(self) -> str:
        """Return the instruction set that most of the network's work uses; "" if unknown."""
        kinds = Counter(_kernels(self._compiled.get_runtime_model()))
        return kinds.most_common(1)[0][0] if kinds else ""


def _cut(read: Any) -> tuple[Any, Any]:
    """Return (the network, the gate), which share their constants.

    The network ends at `features`, and also at `logits` if these need more than the features.
    """
    ov = load_openvino()
    gate = read.clone()
    cut = [_FEATURES]
    if _needs_pixels(_source(read, _LOGITS), _source(read, _FEATURES)):
        cut.append(_LOGITS)
    network = ov.Model([_source(read, name) for name in cut], read.get_parameters(), "network")
    sources = {name: _source(gate, name) for name in cut}
    given = []
    for name, source in sources.items():
        parameter = ov.opset8.parameter(source.partial_shape, np.float32, name)
        parameter.output(0).set_names({name})
        for reader in source.get_target_inputs():
            reader.replace_source_output(parameter.output(0))
        given.append(parameter)
    for output, name in zip(network.outputs, cut, strict=True):
        output.set_names({name})
    return network, ov.Model(gate.get_results(), given, "gate")


def _source(model: Any, name: str) -> Any:
    """Return the output of the node that computes a result of the model."""
    return next(
        result.input_value(0)
        for result in model.get_results()
        if name in result.output(0).names | result.input_value(0).names
    )


def _needs_pixels(output: Any, without: Any) -> bool:
    """Return whether computing `output` needs an input of the model when `without` is known."""
    stopped, seen, ahead = _key(without), set(), [output]
    while ahead:
        current = ahead.pop()
        if _key(current) == stopped or _key(current) in seen:
            continue
        seen.add(_key(current))
        node = current.get_node()
        if node.get_type_name() == "Parameter":
            return True
        ahead += node.input_values()
    return False


def _key(output: Any) -> tuple[str, int]:
    return output.get_node().get_name(), output.get_index()


def _image_size(read: Any, model: Path | bytes) -> tuple[int, int]:
    """Return (height, width). Raises BundleRefused if it is not a sealed graph."""
    shapes = {put.any_name: put.partial_shape for put in read.inputs}
    shape = shapes.get("pixels")
    if len(shapes) != 1 or shape is None or len(shape) != 4 or any(d.is_dynamic for d in shape[1:]):
        raise BundleRefused(
            f"{_name(model)} must have exactly one input, pixels: a batch of images of a fixed "
            "size."
        )
    names = {name for put in read.outputs for name in put.names}
    if missing := [name for name in (_LOGITS, _FEATURES) if name not in names]:
        raise BundleRefused(f"{_name(model)} has no output {missing[0]}.")
    return shape[1].get_length(), shape[2].get_length()


def _name(model: Path | bytes) -> str:
    return "the graph" if isinstance(model, bytes) else str(model)


def _kernels(executed: Any) -> Iterator[str]:
    """Yield the instruction set and type of each large layer, as in "avx512_amx_bf16"."""
    for node in executed.get_ordered_ops():
        about = node.get_rt_info()
        if about["layerType"].astype(str) in _WORK:
            words = about["primitiveType"].astype(str).split("_")
            yield "_".join([word for word in words[:-1] if word in _SETS] + words[-1:])
