"""Vertex AI: prediction and health on the routes that the platform names in the environment."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from tidegate.service.api.bodies import as_json
from tidegate.service.api.context import RequestContext
from tidegate.service.api.dialects.base import Dialect, Parts, ShortCut
from tidegate.service.api.dialects.calls import answer
from tidegate.service.api.dialects.descriptions import (
    ERROR_SCHEMA,
    IMAGE,
    answers,
    json_content,
    takes,
)
from tidegate.service.api.dialects.error_forms import error_text
from tidegate.service.api.dialects.health import add_health
from tidegate.service.api.dialects.instances import (
    PREDICTIONS_SCHEMA,
    InstanceReader,
    body_schema,
    predictions,
)
from tidegate.service.api.dialects.names import VERTEX
from tidegate.service.api.dialects.whole_answer import respond_whole
from tidegate.service.api.problems import Json


class _Prediction:
    """Answers the predict route: instances in JSON, or one raw image (rawPredict)."""

    def __init__(self, parts: Parts) -> None:
        self._intake = parts.intake
        self._reader = InstanceReader(parts.intake)
        self._flag = parts.ood_action == "flag"

    async def predict(self, request: Request) -> Response:
        """Handle POST."""
        context, intake = RequestContext.of(request.scope), self._intake
        chosen = intake.choose(context)
        call, outcomes = await answer(intake, request, chosen, self._reader.read_any)
        if not call.is_single:
            return Json(as_json(predictions(outcomes, context)))
        response, _ = respond_whole(outcomes[0], chosen, context, flag=self._flag)
        return response


def dialect(parts: Parts) -> Dialect:
    """Return the dialect, on the routes that AIP_PREDICT_ROUTE and AIP_HEALTH_ROUTE name."""
    routes = APIRouter(tags=["Vertex AI"])
    path, health_path = parts.facts.vertex_predict_route, parts.facts.vertex_health_route
    prediction = _Prediction(parts)

    routes.add_api_route(
        path,
        prediction.predict,
        methods=["POST"],
        summary="Classify images",
        response_class=Response,
        responses=answers(json_content(PREDICTIONS_SCHEMA), ERROR_SCHEMA),
        openapi_extra=takes(json_content(body_schema(parts.intake.limits.max_files)) | IMAGE),
    )

    add_health(routes, health_path, parts.intake.service, ERROR_SCHEMA)
    fast = ShortCut(path, prediction.predict)
    return Dialect(
        VERTEX,
        (path, health_path),
        error_text,
        routes,
        (path,),
        lambda given: fast if given == path else None,
    )
