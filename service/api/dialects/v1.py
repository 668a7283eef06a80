"""KServe's protocol v1 and TensorFlow Serving's REST API: `:predict` below /v1/models."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.routing import compile_path

from tidegate.service.api.bodies import as_json
from tidegate.service.api.context import RequestContext
from tidegate.service.api.dialects.base import Dialect, Parts
from tidegate.service.api.dialects.calls import answer
from tidegate.service.api.dialects.descriptions import (
    ERROR_SCHEMA,
    answers,
    failures,
    json_content,
    takes,
)
from tidegate.service.api.dialects.error_forms import error_text
from tidegate.service.api.dialects.instances import (
    PREDICTIONS_SCHEMA,
    InstanceReader,
    body_schema,
    predictions,
)
from tidegate.service.api.dialects.names import V1
from tidegate.service.api.problems import Json
from tidegate.service.api.readiness import check_ready
from tidegate.service.catalog import STABLE

_UNAVAILABLE = failures(ERROR_SCHEMA, 404, 503)


class _Slug(StringConvertor):
    """A part of a path without a verb: `NAME:predict` is not a model of that name."""

    regex = "[^/:]+"


register_url_convertor("slug", _Slug())
_MODEL = "/v1/models/{name:slug}"
_VERSIONS = (_MODEL, _MODEL + "/versions/{version:slug}", _MODEL + "/labels/{version:slug}")
_WHOSE = ("a model", "a version", "an alias")


def dialect(parts: Parts) -> Dialect:
    """Return the dialect."""
    routes = APIRouter(tags=["KServe v1, TensorFlow Serving"])
    for prefix, whose in zip(_VERSIONS, _WHOSE, strict=True):
        _add_model(routes, parts, prefix, whose)

    @routes.get("/v1/models", summary="List the models", responses=failures(ERROR_SCHEMA, 503))
    async def models() -> Response:
        return Json(as_json({"models": list(parts.intake.service.catalog.models)}))

    classifying = tuple(compile_path(f"{prefix}:predict")[1] for prefix in _VERSIONS)
    return Dialect(V1, ("/v1/models",), error_text, routes, classifying)


def _add_model(routes: APIRouter, parts: Parts, prefix: str, whose: str) -> None:
    """Add the routes of a model, a version or an alias."""
    intake, reader = parts.intake, InstanceReader(parts.intake)

    @routes.post(
        f"{prefix}:predict",
        summary=f"Classify images with {whose}",
        responses=answers(json_content(PREDICTIONS_SCHEMA), ERROR_SCHEMA),
        openapi_extra=takes(json_content(body_schema(intake.limits.max_files))),
    )
    async def predict(request: Request) -> Response:
        """An image that fails or is rejected is an element of the answer, not a failed call."""
        context = RequestContext.of(request.scope)
        chosen = intake.choose(context, **request.path_params)
        _, outcomes = await answer(intake, request, chosen, reader.read)
        return Json(as_json(predictions(outcomes, context)))

    @routes.get(prefix, summary=f"Is {whose} ready?", responses=_UNAVAILABLE)
    async def status(request: Request) -> Response:
        """The fields of KServe and of TensorFlow Serving in one object."""
        served = intake.service.choose(request.path_params["name"], _version(request)).served
        check_ready(intake.service)
        return Json(as_json(_status(served.name, served.version)))


def _version(request: Request) -> str:
    """Return the version that the path names, the stable one by default."""
    version: str = request.path_params.get("version", STABLE)
    return version


def _status(name: str, version: str) -> dict[str, Any]:
    fine = {"error_code": "OK", "error_message": ""}
    available = {"version": version, "state": "AVAILABLE", "status": fine}
    return {"name": name, "ready": "True", "model_version_status": [available]}
