"""What OpenAPI says about the routes of the dialects."""

from __future__ import annotations

from typing import Any

from tidegate.service.api.described_failures import CLASSIFYING, Responses, in_form

_BYTES = {"type": "string", "format": "binary"}
ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "examples": ["undecodable-image: …"]}},
}
IMAGE = {"application/octet-stream": {"schema": _BYTES}, "image/*": {"schema": _BYTES}}


def json_content(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON body with this schema."""
    return {"application/json": {"schema": schema}}


def takes(content: dict[str, Any], *parameters: dict[str, Any]) -> dict[str, Any]:
    """Return what a route adds to its description: its body and its parameters."""
    return {
        "requestBody": {"required": True, "content": content},
        "parameters": [
            *parameters,
            {
                "name": "X-Request-Timeout-Ms",
                "in": "header",
                "description": "deadline in milliseconds, from the last byte of the request",
                "schema": {"type": "integer", "minimum": 1},
            },
        ],
    }


def answers(content: dict[str, Any], error: dict[str, Any]) -> Responses:
    """Return the responses of a route that classifies; `error` is the schema of a failure."""
    return {
        200: {"description": "the answer", "content": content},
        **failures(error, *CLASSIFYING),
    }


def failures(error: dict[str, Any], *statuses: int) -> Responses:
    """Return the responses to requests that fail."""
    return in_form({status: CLASSIFYING[status] for status in statuses}, json_content(error))
