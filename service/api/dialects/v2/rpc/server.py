"""The gRPC server: its limits, its errors and its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import grpc

from tidegate.service.api.context import RequestContext, record
from tidegate.service.api.dialects.base import Parts, problem_of_image
from tidegate.service.api.dialects.v2.errors import error_text
from tidegate.service.api.dialects.v2.rpc.calls import Answer, Calls
from tidegate.service.api.dialects.v2.rpc.messages import HEALTH, HEALTH_MESSAGES, SERVICE
from tidegate.service.api.dialects.v2.rpc.status import Refused, retry_metadata, status_of
from tidegate.service.api.intake import ImageFailed
from tidegate.service.api.problems import ProblemBody, problem_of, unexpected_problem
from tidegate.service.api.readiness import is_ready
from tidegate.service.errors import SettingsInvalid, TidegateError, UploadTimeout

_HEADERS_BYTES = 64 * 1024  # of a message besides its data
_MAX_STREAMS = 1000  # calls at once on one connection
_WATCH_EVERY_S = 1.0
_OK, _CLIENT_CLOSED = 200, 499  # in the log and in the metrics, as for HTTP
_INFER = "ModelInfer"
CALLS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    _INFER,
)


def route_of(call: str) -> str:
    """Return the route of a call in the metrics and the log: its path in HTTP/2."""
    return f"/{SERVICE}/{call}"


class RpcServer:
    """Serves the protocol, and the standard health service, on a port of its own."""

    def __init__(self, parts: Parts) -> None:
        limits = parts.intake.limits
        self._parts = parts
        self._metrics = parts.intake.metrics
        self._metrics.serve_routes([route_of(call) for call in CALLS], [route_of(_INFER)])
        self._limits = limits
        # A message arrives as a whole before its bytes can be counted, so few may arrive at once.
        self._arriving = asyncio.Semaphore(
            max(1, limits.max_inflight_bytes // limits.max_upload_bytes // 2)
        )
        self._calls = Calls(parts)
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limits.max_upload_bytes + _HEADERS_BYTES),
                ("grpc.max_concurrent_streams", _MAX_STREAMS),
                ("grpc.so_reuseport", 0),  # a second process on the port is an error
            ]
        )
        self._server.add_generic_rpc_handlers([_generic(SERVICE, self._handlers())])
        self._server.add_generic_rpc_handlers([_generic(HEALTH, self._health())])

    async def start(self, hosts: Sequence[str], port: int) -> int:
        """Listen on a port of every host, and return it; 0 is any free port.

        Raises SettingsInvalid if an address cannot be listened on.
        """
        for host in hosts:
            address = f"[{host}]" if ":" in host else host
            try:
                port = self._server.add_insecure_port(f"{address}:{port}")
            except RuntimeError as error:
                raise SettingsInvalid(f"Cannot listen on {address}:{port}: {error}.") from error
        await self._server.start()
        return port

    async def stop(self, timeout_s: float) -> None:
        """Accept no more calls, and wait for those in progress; after the time they are cut."""
        await self._server.stop(timeout_s)

    def _handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(partial(self._unary, name, answer))
            for name, answer in self._calls.by_name().items()
        }
        # On the wire this is a unary call. The message is received only when it is read.
        handlers[_INFER] = grpc.stream_unary_rpc_method_handler(self._infer)
        return handlers

    async def _unary(self, name: str, answer: Answer, content: bytes, rpc: Any) -> bytes:
        async def work(context: RequestContext) -> bytes:
            return await answer(content, context, rpc)

        return await self._answered(name, work, rpc)

    async def _infer(self, _: AsyncIterator[bytes], rpc: Any) -> bytes:
        async def work(context: RequestContext) -> bytes:
            return await self._calls.infer(await self._read(rpc), context, rpc)

        return await self._answered(_INFER, work, rpc)

    async def _read(self, rpc: Any) -> bytes:
        """Return the only message of a call. Raises UploadTimeout."""
        started = time.monotonic()
        async with self._arriving:
            try:
                async with asyncio.timeout(self._limits.upload_timeout_s):
                    content = await rpc.read()
            except TimeoutError:
                raise UploadTimeout(
                    f"The message did not arrive within {self._limits.upload_timeout_s:g} s."
                ) from None
        self._metrics.stages["read"].observe(time.monotonic() - started)
        return content if isinstance(content, bytes) else b""  # grpc.aio.EOF: there is none

    async def _answered(
        self, name: str, work: Callable[[RequestContext], Awaitable[bytes]], rpc: Any
    ) -> bytes:
        """Return what `work` returns, or end the call with the status of its error."""
        context = RequestContext.from_headers(_headers(rpc))
        context.route = route_of(name)
        started, status = time.perf_counter(), _CLIENT_CLOSED
        self._metrics.inflight.inc()
        try:
            answer = await work(context)
            status = _OK
            rpc.set_trailing_metadata(_metadata(context))
            return answer
        except Exception as error:
            problem, retry_after_s = _problem(error, context)
            status = problem["status"]
            metadata = (*_metadata(context), *retry_metadata(retry_after_s))
            await rpc.abort(status_of(problem), error_text(problem), metadata)  # raises
            raise
        finally:
            self._metrics.inflight.dec()
            record(self._metrics, context, "gRPC", status, time.perf_counter() - started)

    def _health(self) -> dict[str, grpc.RpcMethodHandler]:
        request, response = (HEALTH_MESSAGES[f"HealthCheck{part}"] for part in _HEALTH_PARTS)
        options = {
            "request_deserializer": request.FromString,
            "response_serializer": response.SerializeToString,
        }

        def status(service: str) -> str:
            if service not in ("", SERVICE, HEALTH):
                return "SERVICE_UNKNOWN"
            return "SERVING" if is_ready(self._parts.intake.service) else "NOT_SERVING"

        async def check(asked: Any, rpc: Any) -> Any:
            found = status(asked.service)
            if found == "SERVICE_UNKNOWN":
                await rpc.abort(grpc.StatusCode.NOT_FOUND, "There is no such service.")
            return response(status=found)

        async def watch(asked: Any, rpc: Any) -> AsyncIterator[Any]:
            last = ""
            while True:
                if (found := status(asked.service)) != last:
                    yield response(status=found)
                    last = found
                await asyncio.sleep(_WATCH_EVERY_S)

        return {
            "Check": grpc.unary_unary_rpc_method_handler(check, **options),
            "Watch": grpc.unary_stream_rpc_method_handler(watch, **options),
        }


_HEALTH_PARTS = ("Request", "Response")


def _problem(error: Exception, context: RequestContext) -> tuple[ProblemBody, float | None]:
    """Return the problem document of an error, and when to try again."""
    if isinstance(error, Refused):
        return error.problem, None
    if isinstance(error, ImageFailed):
        if isinstance(error.error, TidegateError):
            return problem_of_image(error, context)
        error = error.error
    if isinstance(error, TidegateError):
        problem, retry_after_s = problem_of(error, context), error.retry_after_s
    else:
        problem, retry_after_s = unexpected_problem(error, context), None
    context.log["code"] = problem["code"]
    return problem, retry_after_s


def _generic(service: str, handlers: dict[str, grpc.RpcMethodHandler]) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(service, handlers)


def _headers(rpc: Any) -> list[tuple[bytes, bytes]]:
    """Return a call's metadata as HTTP headers; names are in lower case."""
    return [
        (name.encode("ascii"), value.encode("latin-1", "replace"))
        for name, value in rpc.invocation_metadata() or ()
        if isinstance(value, str)
    ]


def _metadata(context: RequestContext) -> tuple[tuple[str, str], ...]:
    headers = context.response_headers()
    return tuple((name.decode("ascii"), value.decode("ascii")) for name, value in headers)
