"""The mark of a graph that is made for one engine, although another could run it."""

from __future__ import annotations

from typing import Literal

import onnx
from onnx import helper

KEY = "tidegate.engine"
_OPENVINO: Literal["openvino"] = "openvino"


def mark_for_openvino(model: onnx.ModelProto) -> None:
    """Mark `model` as one whose numbers are to be OpenVINO's."""
    helper.set_model_props(model, {KEY: _OPENVINO})


def engine_of(model: onnx.ModelProto) -> Literal["openvino"] | None:
    """Return the engine that `model` is made for; None: it has no mark."""
    marked = any(entry.key == KEY and entry.value == _OPENVINO for entry in model.metadata_props)
    return _OPENVINO if marked else None
