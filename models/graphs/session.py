"""Run a graph on one thread, and map its errors to one exception."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from tidegate.models.graphs.names import OUTPUTS
from tidegate.models.graphs.openvino_session import OpenVinoSession, precision_on_openvino

Array = NDArray[Any]


class CannotRun(Exception):
    """ONNX Runtime cannot run the graph; the text is the first line of its error."""


def open_session(model: onnx.ModelProto, names: Sequence[str]) -> ort.InferenceSession:
    """Open `model` with `names` as its outputs, inner tensors included."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    known = {output.name for output in model.graph.output}
    shown.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in known
    )
    try:
        return quiet_session(shown.SerializeToString())
    except Exception as error:  # its exceptions have no common base
        raise CannotRun(first_line(error)) from error


def quiet_session(graph: bytes) -> Any:
    """Return a session on one thread that logs nothing: of the engine that serves such a graph.

    That is ONNX Runtime's CPU provider, or OpenVINO for bfloat16 and for int8 that is made for it.
    Raises BuildRefused if OpenVINO does not compute so on this machine.
    """
    if precision := precision_on_openvino(graph):
        return OpenVinoSession(graph, precision)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised, so the log would repeat them
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def outputs_of(
    session: ort.InferenceSession, images: NDArray[np.float32], names: Sequence[str] = OUTPUTS[:2]
) -> list[Array]:
    try:
        return list(session.run(list(names), {session.get_inputs()[0].name: images}))
    except Exception as error:  # its exceptions have no common base
        raise CannotRun(first_line(error)) from error


def run_once(
    model: onnx.ModelProto, names: Sequence[str], images: NDArray[np.float32]
) -> list[Array]:
    return outputs_of(open_session(model, names), images, names)


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
