"""The calls of the protocol over gRPC. Each is a task on the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from google.protobuf.json_format import ParseDict

from tidegate.service.api.context import RequestContext
from tidegate.service.api.dialects.base import Parts
from tidegate.service.api.dialects.v2.inference import find_target, refusal, uploads
from tidegate.service.api.dialects.v2.metadata import (
    config_body,
    model_body,
    server_body,
    stats_body,
)
from tidegate.service.api.dialects.v2.model import ModelName, model_name, model_names
from tidegate.service.api.dialects.v2.response import tensors
from tidegate.service.api.dialects.v2.rpc.convert import parse_message, to_infer, to_response
from tidegate.service.api.dialects.v2.rpc.messages import MESSAGES
from tidegate.service.api.dialects.v2.rpc.status import Refused
from tidegate.service.api.limits import address_of
from tidegate.service.api.readiness import check_ready, is_ready
from tidegate.service.catalog import Model
from tidegate.service.errors import NotFound, ServiceError
from tidegate.service.served import Served

Answer = Callable[[bytes, RequestContext, Any], Awaitable[bytes]]


class Calls:
    """Answers each call: serialized request, context and the library's context → response.

    They raise TidegateError, ImageFailed or Refused.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._intake = parts.intake
        self._service = parts.intake.service

    def by_name(self) -> dict[str, Answer]:
        """Return the calls, except ModelInfer, by their name."""
        return {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
        }

    async def infer(self, content: bytes, context: RequestContext, rpc: Any) -> bytes:
        """Answer ModelInfer."""
        received, intake = time.monotonic(), self._intake
        client = client_of(rpc)
        message = parse_message("ModelInferRequest", content)
        target = find_target(intake, context, message.model_name, message.model_version)
        with intake.receiving(client, target.chosen) as reservation:
            reservation.grow_to(3 * len(content))  # the bytes, the message and the images
            del content
            asked = to_infer(message, target.spec, rpc.time_remaining())
            del message
            images = uploads(intake, asked, received, client, context)
            try:
                results = await intake.classify_all(target.chosen, images, context.request_id)
            except asyncio.CancelledError:  # the client cancelled the call or has gone
                intake.metrics.shed("client-gone")
                raise
        problem = refusal(results, asked, target, self._parts.ood_action, context)
        if problem is not None:
            raise Refused(problem)
        outputs = tensors(results, asked, target.chosen.served.bundle)
        return to_response(asked, target.model.given, target.version, outputs)

    async def _server_live(self, content: bytes, context: RequestContext, rpc: Any) -> bytes:
        return _message("ServerLiveResponse", {"live": True})

    async def _server_ready(self, content: bytes, context: RequestContext, rpc: Any) -> bytes:
        return _message("ServerReadyResponse", {"ready": is_ready(self._service)})

    async def _model_ready(self, content: bytes, context: RequestContext, rpc: Any) -> bytes:
        try:
            self._find("ModelReadyRequest", content)
            check_ready(self._service)
        except (NotFound, ServiceError):
            return _message("ModelReadyResponse", {"ready": False})
        return _message("ModelReadyResponse", {"ready": True})

    async def _server_metadata(self, content: bytes, context: RequestContext, rpc: Any) -> bytes:
        return _message("ServerMetadataResponse", server_body(self._parts.version))

    async def _model_metadata(self, content: bytes, context: RequestContext, rpc: Any) -> bytes:
        found = self._find("ModelMetadataRequest", content)
        return _message("ModelMetadataResponse", model_body(*found))

    async def _model_config(self, content: bytes, context: RequestContext, rpc: Any) -> bytes:
        found = self._find("ModelConfigRequest", content)
        config = config_body(*found, self._intake.limits.max_files)
        return _message("ModelConfigResponse", {"config": config})

    async def _model_statistics(self, content: bytes, context: RequestContext, rpc: Any) -> bytes:
        request = parse_message("ModelStatisticsRequest", content)
        if request.name:
            name, _, served = self._find("ModelStatisticsRequest", content)
            stats = [stats_body(name.given, served)]
        else:
            stats = [
                stats_body(model.name, served)
                for model in self._service.catalog.models.values()
                for served in model.versions.values()
            ]
        return _message("ModelStatisticsResponse", {"model_stats": stats})

    async def _repository_index(self, content: bytes, context: RequestContext, rpc: Any) -> bytes:
        catalog = self._service.catalog
        models = [
            {"name": name, "version": version, "state": "READY"}
            for name in model_names(catalog)
            for version in sorted(catalog.model(model_name(name, catalog).model).versions)
        ]
        return _message("RepositoryIndexResponse", {"models": models})

    def _find(self, request: str, content: bytes) -> tuple[ModelName, Model, Served]:
        message = parse_message(request, content)
        catalog = self._service.catalog
        name = model_name(message.name, catalog)
        model = catalog.model(name.model)
        return name, model, model.version(message.version) if message.version else model.stable


def client_of(rpc: Any) -> str:
    """Return the address that a call's quota and shares are counted for.

    gRPC writes a peer as `ipv4:127.0.0.1:5000` or `ipv6:%5B::1%5D:5000`.
    """
    kind, _, address = unquote(rpc.peer()).partition(":")
    host = address.rpartition(":")[0].strip("[]")
    return address_of((host, 0) if kind in ("ipv4", "ipv6") and host else None)


def _message(name: str, body: dict[str, Any]) -> bytes:
    content: bytes = ParseDict(body, MESSAGES[name]()).SerializeToString()
    return content
