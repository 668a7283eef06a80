"""Run a graph with OpenVINO while a bundle is built, if that is what will serve it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs import engine_mark
from tidegate.service.bundle.manifest import Precision
from tidegate.service.engines.openvino.program import Program, Request
from tidegate.service.engines.openvino.runtime import check_device
from tidegate.service.errors import EngineUnavailable

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output of a graph, as ONNX Runtime describes it."""

    name: str
    shape: list[int | str]


class OpenVinoSession:
    """OpenVINO, with the methods of ONNX Runtime's session that building a bundle uses.

    Each thread computes by itself, so threads may share a session.
    """

    def __init__(self, graph: bytes, precision: Precision) -> None:
        check_openvino(precision)
        parsed = onnx.load_model_from_string(graph).graph
        self._values = [
            [_described(value) for value in side] for side in (parsed.input, parsed.output)
        ]
        self._program = Program(graph, precision, "CPU", 1)
        self._requests = threading.local()

    def get_inputs(self) -> list[Value]:
        return self._values[0]

    def get_outputs(self) -> list[Value]:
        return self._values[1]

    def run(self, names: Sequence[str] | None, given: Mapping[str, Array]) -> list[Array]:
        """Return the outputs `names` for the pixels in `given`."""
        (pixels,) = given.values()
        request = self._request(len(pixels))
        request.pixels[:] = pixels
        found = request.run()
        return [found[name].copy() for name in names or [value.name for value in self._values[1]]]

    def _request(self, size: int) -> Request:
        requests: dict[int, Request] = self._requests.__dict__.setdefault("by_size", {})
        if size not in requests:
            requests[size] = self._program.request(size)
        return requests[size]


def precision_on_openvino(graph: bytes) -> Precision | None:
    """Return the precision in which OpenVINO will serve `graph`; None: ONNX Runtime will.

    It has weights in bfloat16, or is made in int8 for OpenVINO. It must take pixels.
    """
    if b"/bf16" not in graph and engine_mark.KEY.encode() not in graph:
        return None
    model = onnx.load_model_from_string(graph)
    if [value.name for value in model.graph.input] != ["pixels"]:
        return None
    if any(item.data_type == TensorProto.BFLOAT16 for item in model.graph.initializer):
        return "bf16"
    return "int8" if engine_mark.engine_of(model) == "openvino" else None


def check_openvino(precision: Precision) -> None:
    """Raise BuildRefused if OpenVINO does not compute in `precision` on this machine."""
    try:
        check_device("CPU", precision)
    except EngineUnavailable as error:
        raise BuildRefused(
            f"A bundle in {precision} is fitted with the engine that serves it. {error}"
        ) from error


def _described(value: onnx.ValueInfoProto) -> Value:
    dims = value.type.tensor_type.shape.dim
    return Value(
        value.name, [d.dim_value if d.HasField("dim_value") else d.dim_param for d in dims]
    )
