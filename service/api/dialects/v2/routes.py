"""The routes of the protocol and their OpenAPI descriptions."""

from __future__ import annotations

from fastapi import APIRouter, Response

from tidegate.service.api.dialects.base import Dialect, Parts
from tidegate.service.api.dialects.names import V2
from tidegate.service.api.dialects.v2.errors import error_form
from tidegate.service.api.problems import Json
from tidegate.service.api.schemas import as_json


def dialect(parts: Parts) -> Dialect:
    """Return the dialect."""
    routes = APIRouter(tags=["Open Inference Protocol v2"])

    @routes.get("/v2", summary="Name the server and its extensions")
    async def server() -> Response:
        return Json(as_json({"name": "tidegate", "version": parts.version, "extensions": []}))

    return Dialect(V2, ("/v2",), error_form, routes, classifying=())
