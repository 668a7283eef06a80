"""What the OpenAPI document says about access, if the service has API keys."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from tidegate.service.api.access import scopes_of
from tidegate.service.api.problems import MEDIA_TYPE, PROBLEM_REF

_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "an API key"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_METHODS = ("get", "post", "put")


def describe_access(app: FastAPI) -> None:
    """Add the two ways to send a key, the scopes and the refusals to every route that needs one."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        if "securitySchemes" not in document.setdefault("components", {}):
            document["components"]["securitySchemes"] = _SCHEMES
            for path, operations in document["paths"].items():
                for method in _METHODS:
                    if method in operations:
                        _describe(method.upper(), path, operations[method])
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation does


def _describe(method: str, path: str, operation: dict[str, Any]) -> None:
    scopes = sorted(scopes_of(method, path))
    if not scopes:
        return
    operation["security"] = [{scheme: []} for scheme in _SCHEMES]
    operation["description"] = (
        f"{operation.get('description', '')}\n\nScope: {' or '.join(scopes)}."
    ).strip()
    responses = operation["responses"]
    content = _form_of_errors(responses)
    for status, code in (("401", "unauthorized"), ("403", "forbidden")):
        responses.setdefault(status, {"description": code, "content": content})


def _form_of_errors(responses: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a route's other errors: each protocol has its own form."""
    # 422 may be the framework's description of invalid parameters.
    others = (responses[status] for status in responses if status[0] in "45" and status != "422")
    problem = {MEDIA_TYPE: {"schema": PROBLEM_REF}}
    return next((other["content"] for other in others if "content" in other), problem)
