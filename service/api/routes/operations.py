"""Probes, the served model and drift."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from tidegate.service.api.bodies import model_body, models_body
from tidegate.service.api.problems import MEDIA_TYPE, PROBLEM_REF
from tidegate.service.api.readiness import check_ready
from tidegate.service.api.routes.drift import DriftBody, drift_body
from tidegate.service.api.routes.rollout import RolloutBody, rollout_body
from tidegate.service.api.schemas import ModelBody, ModelsBody, StatusBody
from tidegate.service.lifecycle import Service
from tidegate.service.served import Served

_PROBLEM = {MEDIA_TYPE: {"schema": PROBLEM_REF}}
_UNAVAILABLE: dict[int | str, dict[str, Any]] = {
    503: {"description": "draining · not-ready", "content": _PROBLEM}
}
_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"description": "not-found", "content": _PROBLEM}
}


def probes(service: Service) -> APIRouter:
    """Return the routes for orchestrators."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/livez", summary="Is the event loop running?")
    async def livez() -> StatusBody:
        return StatusBody(status="alive")

    @routes.get("/readyz", summary="Is the model ready for traffic?", responses=_UNAVAILABLE)
    async def readyz() -> StatusBody:
        check_ready(service)
        return StatusBody(status="ready")

    return routes


def _describe(served: Served) -> ModelBody:
    lane = served.lane
    engine, largest = lane.engine, lane.limits.max_batch_size
    return model_body(served.bundle, engine.info, engine.slots, largest, lane.unmeasured)


def models(service: Service) -> APIRouter:
    """Return the routes that describe the served model and its drift."""
    routes = APIRouter(tags=["models"])

    @routes.get("/models", summary="List the served models", responses=_UNAVAILABLE)
    async def served() -> ModelsBody:
        return models_body(service.catalog)

    @routes.get(
        "/models/{name}",
        summary="Describe a model's stable version",
        responses=_NOT_FOUND | _UNAVAILABLE,
    )
    async def model(name: str) -> ModelBody:
        return _describe(service.catalog.model(name).stable)

    @routes.get(
        "/models/{name}/versions/{version}",
        summary="Describe a version",
        responses=_NOT_FOUND | _UNAVAILABLE,
    )
    async def a_version(name: str, version: str) -> ModelBody:
        """Takes a version or an alias."""
        return _describe(service.catalog.model(name).version(version))

    @routes.get(
        "/models/{name}/rollout",
        summary="Show a model's canary and shadow",
        responses=_NOT_FOUND | _UNAVAILABLE,
    )
    async def rollout(name: str) -> RolloutBody:
        """Shares, evidence and steps."""
        return rollout_body(service.catalog.model(name), service.events(name))

    @routes.get("/drift", summary="Show the drift monitors", responses=_UNAVAILABLE)
    async def drift() -> DriftBody:
        """Those of the default model's stable version."""
        served = service.catalog.model("").stable
        return drift_body(served.bundle, served.monitor.report())

    @routes.get(
        "/models/{name}/versions/{version}/drift",
        summary="Show the drift monitors of a version",
        responses=_NOT_FOUND | _UNAVAILABLE,
    )
    async def drift_of(name: str, version: str) -> DriftBody:
        """Takes a version or an alias."""
        served = service.catalog.model(name).version(version)
        return drift_body(served.bundle, served.monitor.report())

    return routes
