"""TorchServe's inference API: /predictions, as a help for those who migrate."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from itertools import product

from fastapi import APIRouter, Request, Response

from tidegate.service.api.bodies import as_json
from tidegate.service.api.context import RequestContext
from tidegate.service.api.dialects.base import Dialect, Parts
from tidegate.service.api.dialects.calls import Call, answer_single
from tidegate.service.api.dialects.descriptions import (
    IMAGE,
    answers,
    json_content,
    takes,
)
from tidegate.service.api.dialects.error_forms import torchserve_error
from tidegate.service.api.dialects.health import add_health
from tidegate.service.api.dialects.names import TORCHSERVE
from tidegate.service.api.multipart import is_multipart
from tidegate.service.api.problems import Json, rejection, respond
from tidegate.service.api.uploads import Reservation
from tidegate.service.pipeline import Classification

_ROUTES = ("/predictions/{name}", "/predictions/{name}/{version}")


def dialect(parts: Parts) -> Dialect:
    """Return the dialect."""
    routes = APIRouter(tags=["TorchServe"])
    intake = parts.intake

    async def read(request: Request, context: RequestContext, reservation: Reservation) -> Call:
        if is_multipart(context.content_type):
            images = await intake.reader.files(request, context, reservation, "data", 1)
        else:
            images = [await intake.reader.body(request, context, reservation)]
        return Call(images, is_single=True)

    async def predict(request: Request) -> Response:
        """Probabilities by label; a label that several classes have is followed by its class id."""
        context = RequestContext.of(request.scope)
        chosen = intake.choose(context, **request.path_params, single=True)
        result = await answer_single(intake, request, chosen, read)
        bundle = chosen.served.bundle
        if result.verdict.decision == "reject":
            if parts.ood_action == "flag":
                return Json(b"{}")
            return respond(rejection(result, bundle, context), context)
        return Json(as_json(_by_label(result, bundle.labels)))

    # PUT is what `curl -T` sends, as TorchServe's documentation shows it.
    for method, path in product(("POST", "PUT"), _ROUTES):
        routes.add_api_route(
            path,
            predict,
            methods=[method],
            summary=f"Classify one image with {'a version' if 'version' in path else 'a model'}",
            response_class=Response,
            responses=answers(json_content(_PROBABILITIES), _ERROR),
            openapi_extra=takes(IMAGE | _FORM),
        )

    # With the dialect sagemaker this route is SageMaker's, with an empty body.
    add_health(routes, "/ping", intake.service, _ERROR, "Healthy")
    return Dialect(TORCHSERVE, ("/predictions", "/ping"), torchserve_error, routes, _ROUTES)


def _by_label(result: Classification, labels: tuple[str, ...]) -> dict[str, float]:
    repeated = _repeated(labels)
    return {
        f"{p.label} ({p.class_id})" if p.label in repeated else p.label: p.probability
        for p in result.predictions
    }


@lru_cache(maxsize=8)
def _repeated(labels: tuple[str, ...]) -> frozenset[str]:
    """Return the labels that several classes have."""
    return frozenset(label for label, count in Counter(labels).items() if count > 1)


_PROBABILITIES = {"type": "object", "additionalProperties": {"type": "number"}}
_FORM = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["data"],
            "properties": {"data": {"type": "string", "format": "binary"}},
        }
    }
}
_ERROR = {
    "type": "object",
    "required": ["code", "type", "message"],
    "properties": {
        "code": {"type": "integer"},
        "type": {"type": "string"},
        "message": {"type": "string"},
    },
}
