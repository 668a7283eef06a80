"""What OpenAPI says about the protocol's requests and responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tidegate.service.api.described_failures import CLASSIFYING, Responses, in_form

Handle = Callable[..., Any]
Decorator = Callable[[Handle], Handle]


class Getter(Protocol):
    """Adds GET routes."""

    def __call__(self, path: str, summary: str, *errors: int) -> Decorator: ...


# An image that cannot be decoded is an invalid argument, as for Triton (`errors.py`).
_ERRORS = CLASSIFYING | {
    400: "bad-request · undecodable-image · unsupported-image-type",
    415: "unsupported-encoding",
    422: "out-of-distribution: the only image is rejected",
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string", "examples": ["undecodable-image: The image is truncated."]}
    },
    "description": "`error`, and the members of the problem document of /classify",
}
_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string", "examples": ["image"]},
        "shape": {"type": "array", "items": {"type": "integer"}, "examples": [[1, 1]]},
        "datatype": {"type": "string", "enum": ["BYTES", "UINT8", "FP32", "INT32"]},
        "parameters": {"type": "object"},
        "data": {"type": "array", "description": "BYTES of an input are base64"},
    },
}
_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {
            "type": "object",
            "properties": {
                "timeout": {"type": "integer", "description": "microseconds to the deadline"},
                "priority": {"type": "integer", "description": "1 interactive, 2 and above bulk"},
                "top_k": {"type": "integer", "minimum": 1, "maximum": 10_000},
                "ood_action": {"type": "string", "enum": ["reject", "flag"]},
                "binary_data_output": {"type": "boolean"},
            },
        },
        "inputs": {"type": "array", "items": _TENSOR, "minItems": 1, "maxItems": 1},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
            },
        },
    },
}
_RESPONSE = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": _TENSOR},
    },
}
_BYTES = {"schema": {"type": "string", "format": "binary"}}
INFER_REQUEST: dict[str, Any] = {
    "parameters": [
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "description": "bytes of JSON before the binary tensors; 0: the body is one image",
            "schema": {"type": "integer", "minimum": 0},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _REQUEST}, "application/octet-stream": _BYTES},
    },
}


def responses(*errors: int) -> Responses:
    """Return the error responses with these statuses."""
    content = {"application/json": {"schema": _ERROR}}
    return in_form({status: _ERRORS[status] for status in errors}, content)


INFER_RESPONSES: Responses = {
    200: {
        "description": "the outputs",
        "content": {"application/json": {"schema": _RESPONSE}, "application/octet-stream": _BYTES},
    },
    **responses(*_ERRORS),
}
