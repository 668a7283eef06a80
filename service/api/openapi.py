"""The OpenAPI document, completed by what the framework does not know of our handlers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from tidegate.service.api.problems import MEDIA_TYPE, PROBLEM_REF

_VALIDATION = "HTTPValidationError"
_PLACEHOLDER = re.compile(r"{(\w+)}")
_MEANINGS = {
    "name": "a model, as GET /models lists it",
    "version": "a version of the model, or an alias such as canary",
}
_BAD_REQUEST = {"description": "bad-request", "content": {MEDIA_TYPE: {"schema": PROBLEM_REF}}}

Object = dict[str, Any]


def describe(app: FastAPI) -> Object:
    """Return the document of all routes."""
    document: Object = app.openapi()
    for path, operation in _operations(document):
        _add_path_parameters(path, operation)
        _replace_validation(operation)
    schemas = document.get("components", {}).get("schemas", {})
    for name in (_VALIDATION, "ValidationError"):
        schemas.pop(name, None)
    return document


def _operations(document: Object) -> Iterator[tuple[str, Object]]:
    for path, item in document["paths"].items():
        for operation in item.values():
            yield path, operation


def _add_path_parameters(path: str, operation: Object) -> None:
    parameters = operation.setdefault("parameters", [])
    known = {one["name"] for one in parameters if one["in"] == "path"}
    for name in _PLACEHOLDER.findall(path):
        if name not in known:
            schema = {"type": "string", "minLength": 1}
            parameter = {"name": name, "in": "path", "required": True, "schema": schema}
            if name in _MEANINGS:
                parameter["description"] = _MEANINGS[name]
            parameters.append(parameter)
    if not parameters:
        del operation["parameters"]


def _replace_validation(operation: Object) -> None:
    """Describe the framework's rejection of a parameter as what it is here: 400 bad-request."""
    responses = operation["responses"]
    content = responses.get("422", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    if schema.get("$ref", "").endswith(_VALIDATION):
        del responses["422"]
    # A route with a 422 of its own has no description of the framework's rejection.
    if any(one["in"] == "query" for one in operation.get("parameters", ())):
        responses.setdefault("400", _BAD_REQUEST)
