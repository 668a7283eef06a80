"""The standard health service of gRPC, which load balancers and Kubernetes ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from tidegate.service.api.dialects.v2.rpc.messages import HEALTH, HEALTH_MESSAGES, SERVICE
from tidegate.service.api.dialects.v2.rpc.peers import Peers
from tidegate.service.api.readiness import is_ready
from tidegate.service.lifecycle import Service

_WATCH_EVERY_S = 1.0
_UNKNOWN = "SERVICE_UNKNOWN"


def health_handlers(service: Service, peers: Peers) -> dict[str, grpc.RpcMethodHandler]:
    """Return Check and Watch, which need no key, like the probes of HTTP."""
    request, response = (HEALTH_MESSAGES[f"HealthCheck{part}"] for part in ("Request", "Response"))
    codec = (request.FromString, response.SerializeToString)

    def status(name: str) -> str:
        if name not in ("", SERVICE, HEALTH):
            return _UNKNOWN
        return "SERVING" if is_ready(service) else "NOT_SERVING"

    async def check(asked: Any, rpc: Any) -> Any:
        async with peers.calling(rpc):
            found = status(asked.service)
            if found == _UNKNOWN:
                await rpc.abort(grpc.StatusCode.NOT_FOUND, "There is no such service.")
            return response(status=found)

    async def watch(asked: Any, rpc: Any) -> AsyncIterator[Any]:
        last = ""
        async with peers.calling(rpc):
            while True:
                if (found := status(asked.service)) != last:
                    yield response(status=found)
                    last = found
                await asyncio.sleep(_WATCH_EVERY_S)

    return {
        "Check": grpc.unary_unary_rpc_method_handler(check, *codec),
        "Watch": grpc.unary_stream_rpc_method_handler(watch, *codec),
    }
