"""Run a graph whose weights are bfloat16 with the engine that will serve it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from tidegate.models.errors import BuildRefused
from tidegate.service.engines.openvino.program import Program, Request
from tidegate.service.engines.openvino.runtime import check_device
from tidegate.service.errors import EngineUnavailable

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output of a graph, as ONNX Runtime describes it."""

    name: str
    shape: list[int | str]


class Bf16Session:
    """OpenVINO, with the methods of ONNX Runtime's session that building a bundle uses.

    Each thread computes by itself, so threads may share a session.
    """

    def __init__(self, graph: bytes) -> None:
        check_bf16()
        parsed = onnx.load_model_from_string(graph).graph
        self._values = [
            [_described(value) for value in side] for side in (parsed.input, parsed.output)
        ]
        self._program = Program(graph, "bf16", "CPU", 1)
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


def is_bf16(graph: bytes) -> bool:
    """Return whether `graph` takes pixels and has weights in bfloat16."""
    if b"/bf16" not in graph:
        return False
    parsed = onnx.load_model_from_string(graph).graph
    return [value.name for value in parsed.input] == ["pixels"] and any(
        item.data_type == TensorProto.BFLOAT16 for item in parsed.initializer
    )


def check_bf16() -> None:
    """Raise BuildRefused if no engine computes in bfloat16 on this machine."""
    try:
        check_device("CPU", "bf16")
    except EngineUnavailable as error:
        raise BuildRefused(
            f"A bundle in bf16 is fitted with the engine that serves it. {error}"
        ) from error


def _described(value: onnx.ValueInfoProto) -> Value:
    dims = value.type.tensor_type.shape.dim
    return Value(
        value.name, [d.dim_value if d.HasField("dim_value") else d.dim_param for d in dims]
    )
