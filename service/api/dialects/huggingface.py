"""Hugging Face's task API for image classification, as of its Inference Endpoints."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from msgspec import Struct
from msgspec.json import Decoder

from tidegate.service.api.bodies import as_json
from tidegate.service.api.context import RequestContext
from tidegate.service.api.dialects.base import Dialect, Parts, ShortCut
from tidegate.service.api.dialects.calls import Call, answer_single, check_top_k
from tidegate.service.api.dialects.descriptions import (
    ERROR_SCHEMA,
    IMAGE,
    answers,
    json_content,
    takes,
)
from tidegate.service.api.dialects.error_forms import error_text
from tidegate.service.api.dialects.health import add_health
from tidegate.service.api.dialects.names import HUGGINGFACE
from tidegate.service.api.json_image import decode_base64, is_json_object, parse
from tidegate.service.api.parameters import MAX_TOP_K, TOP_K
from tidegate.service.api.problems import Json, rejection, respond
from tidegate.service.api.uploads import Reservation
from tidegate.service.errors import BadRequest

_PREDICT = ("/", "/predict")


class Parameters(Struct):
    """The parameters of the task."""

    top_k: int | None = None
    function_to_apply: str | None = None


class Body(Struct):
    """The JSON form of a request."""

    inputs: str
    parameters: Parameters | None = None


_BODY = Decoder(Body)


class _Task:
    """Answers the task's routes."""

    def __init__(self, parts: Parts) -> None:
        self._intake = parts.intake
        self._ood_action: Literal["reject", "flag"] = parts.ood_action

    async def predict(self, request: Request) -> Response:
        """Handle POST: labels and scores, the best one first; none for an image that is flagged."""
        context, intake = RequestContext.of(request.scope), self._intake
        chosen = intake.choose(context, single=True)
        result = await answer_single(intake, request, chosen, self._read)
        if result.verdict.decision == "reject":
            if self._ood_action == "flag":
                return Json(b"[]")
            return respond(rejection(result, chosen.served.bundle, context), context)
        scores = [{"label": p.label, "score": p.probability} for p in result.predictions]
        return Json(as_json(scores))

    async def _read(
        self, request: Request, context: RequestContext, reservation: Reservation
    ) -> Call:
        body = await self._intake.reader.body(request, context, reservation)
        if not is_json_object(body):
            return Call([body], is_single=True)
        found = parse(_BODY, body, reservation)
        asked = found.parameters or Parameters()
        _check_function(asked.function_to_apply)
        image = await decode_base64(found.inputs, "inputs")
        return Call([image], check_top_k(asked.top_k), is_single=True)


def dialect(parts: Parts) -> Dialect:
    """Return the dialect."""
    routes = APIRouter(tags=["Hugging Face"])
    task = _Task(parts)
    for path in _PREDICT:
        routes.add_api_route(
            path,
            task.predict,
            methods=["POST"],
            summary="Classify one image",
            response_class=Response,
            responses=answers(json_content(_SCORES), ERROR_SCHEMA),
            openapi_extra=takes(IMAGE | json_content(_REQUEST)),
        )

    add_health(routes, "/health", parts.intake.service, ERROR_SCHEMA)
    fast = {path: ShortCut(path, task.predict) for path in _PREDICT}
    return Dialect(HUGGINGFACE, (*_PREDICT, "/health"), error_text, routes, _PREDICT, fast.get)


def _check_function(name: str | None) -> None:
    if name not in (None, "softmax"):
        raise BadRequest(
            f"function_to_apply={name[:20]} is not available: the scores are calibrated "
            "probabilities of exclusive classes, that is softmax."
        )


_REQUEST: dict[str, Any] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "inputs": {"type": "string", "format": "byte"},
        "parameters": {
            "type": "object",
            "properties": {
                "top_k": {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": TOP_K},
                "function_to_apply": {"enum": ["softmax"]},
            },
        },
    },
}
_SCORES = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["label", "score"],
        "properties": {"label": {"type": "string"}, "score": {"type": "number"}},
    },
}
