"""The health route of platforms: 200 and a status if the model is ready."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from tidegate.service.api.bodies import as_json
from tidegate.service.api.dialects.descriptions import failures
from tidegate.service.api.problems import Json
from tidegate.service.api.readiness import check_ready
from tidegate.service.lifecycle import Service


def add_health(
    routes: APIRouter, path: str, service: Service, error: dict[str, Any], status: str = "ready"
) -> None:
    """Add the route; `error` is the schema of the protocol's errors."""

    @routes.get(path, summary="Is the model ready?", responses=failures(error, 503))
    async def health() -> Response:
        check_ready(service)
        return Json(as_json({"status": status}))
