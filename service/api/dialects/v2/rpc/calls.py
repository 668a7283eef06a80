"""The calls of the protocol over gRPC: handlers of requests whose body is a message.

`server.py` passes each call through the road of HTTP requests, so that every limit, key and metric
applies to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from google.protobuf.json_format import ParseDict

from tidegate.service.api.context import RequestContext
from tidegate.service.api.dialects.base import Dialect, Handler, Parts, ShortCut, failed_image
from tidegate.service.api.dialects.v2.errors import error_form
from tidegate.service.api.dialects.v2.inference import find_target, refusal, uploads
from tidegate.service.api.dialects.v2.metadata import (
    all_stats,
    config_body,
    model_body,
    server_body,
    stats_body,
)
from tidegate.service.api.dialects.v2.model import ModelName, model_name, model_names
from tidegate.service.api.dialects.v2.response import tensors
from tidegate.service.api.dialects.v2.rpc.convert import parse_message, to_infer, to_response
from tidegate.service.api.dialects.v2.rpc.messages import MESSAGES, SERVICE
from tidegate.service.api.intake import ImageFailed
from tidegate.service.api.limits import client_of
from tidegate.service.api.problems import Json, respond
from tidegate.service.api.readiness import check_ready, is_ready
from tidegate.service.catalog import Model
from tidegate.service.errors import NotFound, ServiceError
from tidegate.service.served import Served

KEY = "tidegate.rpc"  # in the scope of a request that came over gRPC
CONTENT_TYPE = b"application/grpc"
_PREFIX = f"/{SERVICE}"
_INFER = "ModelInfer"
_COPIES = 3  # of an image in memory: the body, its message and the image


def dialect(parts: Parts) -> Dialect:
    """Return the dialect, whose routes answer only calls that came over gRPC."""
    routes, calls = APIRouter(), {}
    for name, handle in Calls(parts).by_name().items():
        path = f"{_PREFIX}/{name}"
        calls[path] = ShortCut(path, only_rpc(handle))
        routes.add_api_route(
            path, calls[path].handle, methods=["POST"], include_in_schema=False, response_model=None
        )
    infer = f"{_PREFIX}/{_INFER}"
    return Dialect("grpc", (_PREFIX,), error_form, routes, (infer,), short_cut=calls.get)


def only_rpc(handle: Handler) -> Handler:
    """Return a handler that does not answer plain HTTP."""

    async def checked(request: Request) -> Response:
        if KEY not in request.scope:
            raise NotFound("This path answers gRPC only, on its own port.")
        return await handle(request)

    return checked


class Calls:
    """Answers each call."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._intake = parts.intake
        self._service = parts.intake.service

    def by_name(self) -> dict[str, Handler]:
        """Return the handlers by the calls' names."""
        simple = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
        }
        return {name: self._handler(name, body) for name, body in simple.items()} | {
            _INFER: self._infer
        }

    async def _infer(self, request: Request) -> Response:
        context, intake = RequestContext.of(request.scope), self._intake
        client = client_of(request.scope)
        with intake.reserve(client) as reservation:
            content = await intake.reader.body(request, context, reservation)
            received = time.monotonic()
            reservation.grow_to(_COPIES * len(content))
            message = parse_message(f"{_INFER}Request", content)
            del content
            target = find_target(intake, context, message.model_name, message.model_version)
            with target.chosen.served.lane.receiving():
                asked = to_infer(message, target.spec)
                del message
                images = uploads(intake, asked, received, client, context)
                try:
                    with intake.until_disconnect(request):
                        results = await intake.classify_all(
                            target.chosen, images, context.request_id
                        )
                except ImageFailed as failed:
                    return failed_image(failed, context)
        problem = refusal(results, asked, target, self._parts.ood_action, context)
        if problem is not None:
            return respond(problem, context)
        outputs = tensors(results, asked, target.chosen.served.bundle)
        return _response(to_response(asked, target.model.given, target.version, outputs))

    def _handler(self, name: str, body: Callable[[Any], dict[str, Any]]) -> Handler:
        """Return a handler for a call that is answered at once, with the fields of a message."""

        async def handle(request: Request) -> Response:
            context = RequestContext.of(request.scope)
            with self._intake.reserve(client_of(request.scope)) as reservation:
                content = await self._intake.reader.body(request, context, reservation)
                fields = body(parse_message(f"{name}Request", content))
            message = ParseDict(fields, MESSAGES[f"{name}Response"]())
            return _response(message.SerializeToString())

        return handle

    def _server_live(self, _: Any) -> dict[str, Any]:
        return {"live": True}

    def _server_ready(self, _: Any) -> dict[str, Any]:
        return {"ready": is_ready(self._service)}

    def _model_ready(self, message: Any) -> dict[str, Any]:
        """An unknown model is not ready, as for Triton."""
        try:
            self._find(message)
            check_ready(self._service)
        except (NotFound, ServiceError):
            return {"ready": False}
        return {"ready": True}

    def _server_metadata(self, _: Any) -> dict[str, Any]:
        return server_body(self._parts.version)

    def _model_metadata(self, message: Any) -> dict[str, Any]:
        return model_body(*self._find(message))

    def _model_config(self, message: Any) -> dict[str, Any]:
        return {"config": config_body(*self._find(message), self._intake.limits.max_files)}

    def _model_statistics(self, message: Any) -> dict[str, Any]:
        if not message.name:
            return {"model_stats": all_stats(self._service.catalog)}
        name, _, served = self._find(message)
        return {"model_stats": [stats_body(name.given, served)]}

    def _repository_index(self, _: Any) -> dict[str, Any]:
        catalog = self._service.catalog
        return {
            "models": [
                {"name": name, "version": version, "state": "READY"}
                for name in model_names(catalog)
                for version in sorted(catalog.model(model_name(name, catalog).model).versions)
            ]
        }

    def _find(self, message: Any) -> tuple[ModelName, Model, Served]:
        catalog = self._service.catalog
        name = model_name(message.name, catalog)
        model = catalog.model(name.model)
        return name, model, model.version(message.version) if message.version else model.stable


def _response(content: bytes) -> Response:
    return Json(content, content_type=CONTENT_TYPE)
