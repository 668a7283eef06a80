"""The routes of the protocol and their OpenAPI descriptions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from tidegate.service.api.bodies import as_json
from tidegate.service.api.dialects.base import Dialect, Parts, ShortCut
from tidegate.service.api.dialects.names import V2
from tidegate.service.api.dialects.v2 import documents
from tidegate.service.api.dialects.v2.errors import error_form, no_shared_memory
from tidegate.service.api.dialects.v2.handler import InferHandler
from tidegate.service.api.dialects.v2.metadata import (
    all_stats,
    config_body,
    model_body,
    server_body,
    stats_body,
)
from tidegate.service.api.dialects.v2.model import ModelName, model_name, model_names
from tidegate.service.api.problems import Json
from tidegate.service.api.readiness import check_ready, is_ready
from tidegate.service.catalog import Model
from tidegate.service.served import Served

_MODEL = "/v2/models/{name}"
_VERSION = _MODEL + "/versions/{version}"
_INFER = "/infer"
_UNAVAILABLE = 503


def dialect(parts: Parts) -> Dialect:
    """Return the dialect."""
    routes = APIRouter(tags=["Open Inference Protocol v2"])
    handler = InferHandler(parts.intake, parts.ood_action)
    _add_server(routes, parts)
    for prefix, whose in ((_MODEL, "a model's stable version"), (_VERSION, "a version")):
        _add_model(routes, parts, handler, prefix, whose)
    _add_shared_memory(routes)
    return Dialect(
        V2,
        ("/v2",),
        error_form,
        routes,
        classifying=(_MODEL + _INFER, _VERSION + _INFER),
        short_cut=lambda path: _short_cut(path, handler),
    )


def _add_server(routes: APIRouter, parts: Parts) -> None:
    service, get = parts.intake.service, _getter(routes)

    @get("/v2", "Name the server and its extensions")
    async def server() -> Response:
        return _json(server_body(parts.version))

    @get("/v2/health/live", "Is the event loop running?")
    async def live() -> Response:
        return _json({"live": True})

    @get("/v2/health/ready", "Is the service ready for traffic?", _UNAVAILABLE)
    async def ready() -> Response:
        """Both keys, because clients read one or the other."""
        is_up = is_ready(service)
        return _json({"live": True, "ready": is_up}, 200 if is_up else _UNAVAILABLE)

    @get("/v2/models", "List the models", _UNAVAILABLE)
    async def models() -> Response:
        return _json({"models": model_names(service.catalog)})

    @get("/v2/models/stats", "Count the images and batches of every version", _UNAVAILABLE)
    async def stats() -> Response:
        return _json({"model_stats": all_stats(service.catalog)})


def _add_model(
    routes: APIRouter, parts: Parts, handler: InferHandler, prefix: str, whose: str
) -> None:
    service, get = parts.intake.service, _getter(routes)

    def find(request: Request) -> tuple[ModelName, Model, Served]:
        catalog = service.catalog
        name = model_name(request.path_params["name"], catalog)
        model = catalog.model(name.model)
        version = request.path_params.get("version")
        return name, model, model.version(version) if version else model.stable

    @get(prefix, f"Describe the input and the outputs of {whose}", 404, _UNAVAILABLE)
    async def metadata(request: Request) -> Response:
        return _json(model_body(*find(request)))

    @get(f"{prefix}/ready", f"Is {whose} ready for traffic?", 404, _UNAVAILABLE)
    async def ready(request: Request) -> Response:
        name, _, _ = find(request)
        check_ready(service)
        return _json({"name": name.given, "ready": True})

    @get(f"{prefix}/config", f"Return the configuration of {whose}", 404, _UNAVAILABLE)
    async def config(request: Request) -> Response:
        return _json(config_body(*find(request), parts.intake.limits.max_files))

    @get(f"{prefix}/stats", f"Count the images and batches of {whose}", 404, _UNAVAILABLE)
    async def stats(request: Request) -> Response:
        name, _, served = find(request)
        return _json({"model_stats": [stats_body(name.given, served)]})

    @routes.post(
        f"{prefix}{_INFER}",
        summary=f"Classify images with {whose}",
        responses=documents.INFER_RESPONSES,
        openapi_extra=documents.INFER_REQUEST,
    )
    async def infer(request: Request) -> Response:
        """JSON, JSON with binary tensors, or one image as the body; see the guide."""
        return await handler.infer(request, **request.path_params)


def _add_shared_memory(routes: APIRouter) -> None:
    for kind in ("system", "cuda"):
        for method in ("GET", "POST"):
            routes.add_api_route(
                f"/v2/{kind}sharedmemory/{{rest:path}}",
                no_shared_memory,
                methods=[method],
                include_in_schema=False,
            )


def _short_cut(path: str, handler: InferHandler) -> ShortCut | None:
    """Return the handler of an inference request, without the framework's routing."""
    match path.split("/"):
        case ["", "v2", "models", name, "infer"] if name:
            return ShortCut(_MODEL + _INFER, lambda request: handler.infer(request, name))
        case ["", "v2", "models", name, "versions", version, "infer"] if name and version:
            return ShortCut(
                _VERSION + _INFER, lambda request: handler.infer(request, name, version)
            )
        case _:
            return None


def _getter(routes: APIRouter) -> documents.Getter:
    """Return a decorator for GET routes: path, summary, and the statuses of their errors."""

    def get(path: str, summary: str, *errors: int) -> documents.Decorator:
        return routes.get(path, summary=summary, responses=documents.responses(*errors))

    return get


def _json(body: dict[str, Any], status: int = 200) -> Json:
    return Json(as_json(body), status)
