"""From classifications to the output tensors of the protocol, as JSON or binary."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from tidegate.service.api.dialects.v2.model import Datatype, Output
from tidegate.service.api.dialects.v2.request import Infer, Wanted
from tidegate.service.api.problems import Json
from tidegate.service.bundle.store import Bundle
from tidegate.service.pipeline import Classification
from tidegate.service.types import ENERGY, MAHALANOBIS

NO_CLASS, NO_LABEL = -1, ""  # of a rejected image
_LENGTH = struct.Struct("<I")
_FORMATS = {"FP32": "f", "INT32": "i"}  # of struct
_DTYPES = {"FP32": np.float32, "INT32": np.int32}
_BINARY = b"application/octet-stream"


Values = NDArray[np.float32] | list[float] | list[int] | list[str]


@dataclass(slots=True)  # not frozen, which takes three times as long to create
class Tensor:
    """One output: the elements [images, columns], in that order; an array has that shape."""

    name: str
    datatype: Datatype
    shape: tuple[int, int]
    values: Values
    binary: bool

    def to_bytes(self) -> bytes:
        """Return the elements in the binary form: little-endian numbers, or lengths and texts."""
        values = self.values
        if isinstance(values, np.ndarray):
            return values.tobytes()
        if self.datatype == "BYTES":
            encoded = [str(text).encode("utf-8") for text in values]
            return b"".join([_LENGTH.pack(len(one)) + one for one in encoded])
        return struct.pack(f"<{len(values)}{_FORMATS[self.datatype]}", *values)

    def to_json(self) -> NDArray[Any] | list[str]:
        """Return the elements for `orjson`, which writes numbers as short as their type allows."""
        if self.datatype == "BYTES":
            return [str(text) for text in self.values]
        return np.asarray(self.values, _DTYPES[self.datatype]).ravel()


def tensors(results: Sequence[Classification], request: Infer, bundle: Bundle) -> list[Tensor]:
    """Return the requested outputs."""
    return [_tensor(wanted, results, request, bundle) for wanted in request.outputs]


def render(request: Infer, model: str, version: str, outputs: Sequence[Tensor]) -> Json:
    """Return the response: JSON, with the binary outputs after it if there are some."""
    parts: list[bytes] = []
    described = []
    for tensor in outputs:
        entry: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        }
        if tensor.binary:
            parts.append(tensor.to_bytes())
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = tensor.to_json()
        described.append(entry)
    head: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if request.id is not None:
        head["id"] = request.id
    text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    if not parts:
        return Json(text)
    return binary_response(text, parts)


def binary_response(head: bytes, parts: Sequence[bytes]) -> Json:
    """Return the response of a JSON head and the binary outputs."""
    response = Json(b"".join([head, *parts]), content_type=_BINARY)
    length = str(len(head)).encode("ascii")
    response.raw_headers.append((b"inference-header-content-length", length))
    return response


def is_rejected(result: Classification) -> bool:
    """Return whether the gate rejected the image."""
    return result.verdict.decision == "reject"


def _tensor(
    wanted: Wanted, results: Sequence[Classification], request: Infer, bundle: Bundle
) -> Tensor:
    output = wanted.output
    if wanted.classification:
        rows = [_classified(output, result, wanted.classification, bundle) for result in results]
        texts = [text for row in rows for text in row]
        return Tensor(output.name, "BYTES", (len(rows), len(rows[0])), texts, wanted.binary)
    values = _values(output, results, request.top_k, bundle)
    columns = values.shape[1] if isinstance(values, np.ndarray) else len(values) // len(results)
    return Tensor(output.name, output.datatype, (len(results), columns), values, wanted.binary)


def _values(
    output: Output, results: Sequence[Classification], top_k: int | None, bundle: Bundle
) -> Values:
    """Return an output's elements. With `top_k`, the outputs about classes have k columns."""
    match output.name:
        case "probabilities":
            return _all_probabilities(results, top_k, bundle.manifest.task.classes)
        case "class_id":
            return [class_id for one in results for class_id in _class_ids(one, top_k or 1)]
        case "label":
            return [label for one in results for label in _labels(one, top_k or 1)]
        case "decision":
            return [str(one.verdict.decision) for one in results]
        case "features":
            return np.array([one.features for one in results], np.float32)
        case _:
            number = _NUMBERS[output.name]
            return [number(one) for one in results]


_NUMBERS: dict[str, Callable[[Classification], float]] = {
    "p_value": lambda result: result.verdict.p_value,
    "energy_p_value": lambda result: result.verdict.score_p_values[ENERGY],
    "mahalanobis_p_value": lambda result: result.verdict.score_p_values[MAHALANOBIS],
    "nearest_class": lambda result: result.nearest_class,
}


def _all_probabilities(
    results: Sequence[Classification], top_k: int | None, classes: int
) -> NDArray[np.float32]:
    if top_k is not None:
        return np.array([_probabilities(one, top_k) for one in results], np.float32)
    rows = np.zeros((len(results), classes), np.float32)
    for row, result in zip(rows, results, strict=True):
        if not is_rejected(result):
            row[:] = result.probabilities
    return rows


def _probabilities(result: Classification, k: int) -> list[float]:
    rejected = is_rejected(result)
    return [0.0 if rejected else one.probability for one in result.predictions[:k]]


def _class_ids(result: Classification, k: int) -> list[int]:
    rejected = is_rejected(result)
    return [NO_CLASS if rejected else one.class_id for one in result.predictions[:k]]


def _labels(result: Classification, k: int) -> list[str]:
    rejected = is_rejected(result)
    return [NO_LABEL if rejected else one.label for one in result.predictions[:k]]


def _classified(output: Output, result: Classification, k: int, bundle: Bundle) -> list[str]:
    """Return an output in the classification extension: `value:index:label`, the highest first.

    An output with one column has one entry, at index 0.
    """
    if output.per_class:
        columns = zip(
            _probabilities(result, k), _class_ids(result, k), _labels(result, k), strict=True
        )
        return [f"{probability:f}:{class_id}:{label}" for probability, class_id, label in columns]
    (label,), (class_id,) = _labels(result, 1), _class_ids(result, 1)
    match output.name:
        case "class_id":
            return [f"{class_id}:0:{label}"]
        case "label":
            return [f"1:0:{label}"]
        case "decision":
            return [f"1:0:{result.verdict.decision}"]
        case "nearest_class":
            return [f"{result.nearest_class}:0:{bundle.labels[result.nearest_class]}"]
        case _:
            return [f"{_NUMBERS[output.name](result):g}:0:{output.name}"]
