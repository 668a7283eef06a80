"""The usual answer in a fraction of the time: one image, all outputs, all of them binary.

It is byte for byte the answer of `response.py`, without its arrays and its JSON.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache

import orjson

from tidegate.service.api.dialects.v2.model import ONE, ModelName
from tidegate.service.api.dialects.v2.request import Infer, all_outputs
from tidegate.service.api.dialects.v2.response import (
    NO_CLASS,
    NO_LABEL,
    binary_response,
    is_rejected,
)
from tidegate.service.api.problems import Json
from tidegate.service.pipeline import Classification
from tidegate.service.types import ENERGY, MAHALANOBIS

_FLOAT, _INT, _LENGTH = (struct.Struct(f"<{form}").pack for form in "fiI")
_SIZE = "%size"  # stands for a number in a head


def render_usual(
    request: Infer, model: ModelName, version: str, results: Sequence[Classification]
) -> Json | None:
    """Return the response, or None if the request is not of the usual kind."""
    outputs = all_outputs(model.outputs, binary=True)
    is_usual = request.outputs is outputs and request.top_k is None and request.id is None
    if not is_usual or len(results) > 1:
        return None
    [result] = results
    parts = [_ENCODERS[wanted.output.name](result) for wanted in outputs]
    head = _head(model, version, len(result.probabilities))
    return binary_response(head % tuple([len(part) for part in parts]), parts)


@lru_cache(maxsize=64)
def _head(model: ModelName, version: str, classes: int) -> bytes:
    """Return the JSON before the parts, with `%d` for the size of each."""
    described = [
        {
            "name": output.name,
            "datatype": output.datatype,
            "shape": (1, classes if output.per_class else ONE),
            "parameters": {"binary_data_size": _SIZE},
        }
        for output in model.outputs
    ]
    head = {"model_name": model.given, "model_version": version, "outputs": described}
    escaped = orjson.dumps(head).replace(b"%", b"%%")
    return escaped.replace(b'"%%size"', b"%d")


def _probabilities(result: Classification) -> bytes:
    if is_rejected(result):
        return bytes(4 * len(result.probabilities))
    return result.probabilities.astype("<f4").tobytes()


def _class_id(result: Classification) -> bytes:
    return _INT(NO_CLASS if is_rejected(result) else result.predictions[0].class_id)


def _label(result: Classification) -> bytes:
    return _text(NO_LABEL if is_rejected(result) else result.predictions[0].label)


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return _LENGTH(len(encoded)) + encoded


_ENCODERS: dict[str, Callable[[Classification], bytes]] = {
    "probabilities": _probabilities,
    "class_id": _class_id,
    "label": _label,
    "decision": lambda result: _text(result.verdict.decision),
    "p_value": lambda result: _FLOAT(result.verdict.p_value),
    "energy_p_value": lambda result: _FLOAT(result.verdict.score_p_values[ENERGY]),
    "mahalanobis_p_value": lambda result: _FLOAT(result.verdict.score_p_values[MAHALANOBIS]),
    "nearest_class": lambda result: _INT(result.nearest_class),
}
