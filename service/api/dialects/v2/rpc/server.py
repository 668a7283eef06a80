"""The gRPC server: a call becomes a request on the road of HTTP, and its response a message."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import grpc
import msgspec
from starlette.types import ASGIApp, Message, Scope

from tidegate.service.api.connection import Connection
from tidegate.service.api.dialects.v2.rpc.calls import CONTENT_TYPE, KEY
from tidegate.service.api.dialects.v2.rpc.health import health_handlers
from tidegate.service.api.dialects.v2.rpc.messages import CALLS, HEALTH, SERVICE
from tidegate.service.api.dialects.v2.rpc.peers import Peers, peer_of
from tidegate.service.api.dialects.v2.rpc.status import retry_metadata, status_of
from tidegate.service.api.handshake import HANDSHAKE_TIMEOUT_S
from tidegate.service.api.limits import HttpLimits
from tidegate.service.api.tls import Tls
from tidegate.service.api.wire import Wire
from tidegate.service.errors import SettingsInvalid
from tidegate.service.lifecycle import Service

_HEADERS_BYTES = 64 * 1024  # of a message besides its data
_MAX_STREAMS = 1000  # calls at once on one connection
_CANCELLED_S = 0.05  # the end of a cancelled call's messages arrives before its cancellation
_OK = 200
_TIMEOUT = b"x-request-timeout-ms"
_GIVEN = {b"x-request-id", b"traceparent", b"server-timing"}  # headers that become metadata
# Headers that would change how the message is read.
_DROPPED = {b"content-length", b"content-encoding", b"content-type", b"transfer-encoding"}


class RpcServer:
    """Serves the protocol, and the standard health service, on a port of its own."""

    def __init__(
        self, app: ASGIApp, service: Service, limits: HttpLimits, wire: Wire, most_connections: int
    ) -> None:
        """`app` is the road: the ASGI application with its middleware.

        `wire` counts the connections that have calls, and has the certificates;
        `most_connections` is the limit of all, for each address that is listened on.
        """
        self._app = app
        self._tls = wire.tls
        self._peers = Peers(wire)
        # A message arrives as a whole before its bytes can be counted, so few may arrive at once.
        most = limits.max_inflight_bytes // limits.max_upload_bytes // 2
        self._arriving = asyncio.Semaphore(max(1, most))
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limits.max_upload_bytes + _HEADERS_BYTES),
                ("grpc.max_concurrent_streams", _MAX_STREAMS),
                ("grpc.max_allowed_incoming_connections", most_connections),
                ("grpc.max_connection_idle_ms", int(1000 * wire.keep_alive_s)),  # without a call
                ("grpc.server_handshake_timeout_ms", int(1000 * HANDSHAKE_TIMEOUT_S)),
                ("grpc.so_reuseport", 0),  # a second process on the port is an error
            ]
        )
        # On the wire these are unary calls; the message is received only when it is read.
        calls = {
            name: grpc.stream_unary_rpc_method_handler(partial(self._call, f"/{SERVICE}/{name}"))
            for name in CALLS
        }
        for name, handlers in ((SERVICE, calls), (HEALTH, health_handlers(service, self._peers))):
            generic = grpc.method_handlers_generic_handler(name, handlers)
            self._server.add_generic_rpc_handlers([generic])

    async def start(self, hosts: Sequence[str], port: int) -> int:
        """Listen on a port of every host, and return it; 0 is any free port.

        With certificates, calls are encrypted, with the one of the moment. Raises
        SettingsInvalid if an address cannot be listened on.
        """
        for host in hosts:
            address = f"[{host}]" if ":" in host else host
            try:
                if self._tls is None:
                    port = self._server.add_insecure_port(f"{address}:{port}")
                else:
                    credentials = _credentials(self._tls)
                    port = self._server.add_secure_port(f"{address}:{port}", credentials)
            except RuntimeError as error:
                raise SettingsInvalid(f"Cannot listen on {address}:{port}: {error}.") from error
        await self._server.start()
        return port

    async def stop(self, timeout_s: float) -> None:
        """Accept no more calls, and wait for those in progress; after the time they are cut."""
        await self._server.stop(timeout_s)

    async def _call(self, path: str, _: AsyncIterator[bytes], rpc: Any) -> bytes:
        """Answer one call, or end it with the status of its problem."""
        async with self._peers.calling(rpc):
            return await self._answer(path, rpc)

    async def _answer(self, path: str, rpc: Any) -> bytes:
        call = _Call(path, rpc, self._arriving)
        answering = asyncio.ensure_future(self._app(call.scope, call.receive, call.send))
        try:
            await asyncio.shield(answering)
        except asyncio.CancelledError:  # by the client, at the call's deadline or by `stop`
            call.connection.end()
            await answering
            raise
        if call.status == _OK:
            rpc.set_trailing_metadata(call.metadata())
            return call.body
        problem = msgspec.json.decode(call.body)
        metadata = (*call.metadata(), *retry_metadata(call.header(b"retry-after")))
        await rpc.abort(status_of(problem), problem["error"], metadata)  # raises
        raise AssertionError  # pragma: no cover


class _Call:
    """One call as an ASGI request and its response."""

    def __init__(self, path: str, rpc: Any, arriving: asyncio.Semaphore) -> None:
        self._rpc = rpc
        self._arriving = arriving
        self._headers: list[tuple[bytes, bytes]] = []
        self.connection = Connection()
        self.connection.certificate = _certificate_name(rpc)
        self.status = 0
        self.body = b""
        self.scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "2",
            "scheme": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode("ascii"),
            "root_path": "",
            "query_string": b"",
            "headers": _headers(rpc),
            "client": peer_of(rpc.peer()),
            "server": None,
            "state": {},
            Connection.KEY: self.connection,
            KEY: True,
        }

    async def receive(self) -> Message:
        """Return the only message of the call, or the disconnect."""
        async with self._arriving:
            content = await self._rpc.read()
        if not isinstance(content, bytes):  # grpc.aio.EOF: there is none, or the call is cancelled
            await asyncio.sleep(_CANCELLED_S)
            content = b""
        if self.connection.lost:
            return {"type": "http.disconnect"}
        self.connection.body_bytes += len(content)
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(self, message: Message) -> None:
        """Take the response."""
        if message["type"] == "http.response.start":
            self.status, self._headers = message["status"], list(message["headers"])
        else:
            self.body += message.get("body", b"")

    def header(self, name: bytes) -> str | None:
        """Return a header of the response."""
        return next((value.decode("latin-1") for key, value in self._headers if key == name), None)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the headers of the response that clients of gRPC get."""
        return tuple(
            (name.decode("ascii"), value.decode("latin-1"))
            for name, value in self._headers
            if name in _GIVEN
        )


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    def current() -> grpc.ServerCertificateConfiguration:
        pem = tls.pem
        return grpc.ssl_server_certificate_configuration(
            [(pem.key, pem.certificate)], root_certificates=pem.client_ca
        )

    return grpc.dynamic_ssl_server_credentials(
        current(), current, require_client_authentication=tls.pem.client_ca is not None
    )


def _certificate_name(rpc: Any) -> str:
    names = rpc.auth_context().get("x509_common_name", ())
    return b"".join(names).decode("utf-8", "replace")


def _headers(rpc: Any) -> list[tuple[bytes, bytes]]:
    """Return a call's metadata and its deadline as HTTP headers; names are in lower case."""
    headers = [
        (name.encode("ascii"), value.encode("latin-1", "replace"))
        for name, value in rpc.invocation_metadata() or ()
        if isinstance(value, str)
    ]
    headers = [(name, value) for name, value in headers if name not in _DROPPED]
    left_s = rpc.time_remaining()
    if left_s is not None and all(name != _TIMEOUT for name, _ in headers):
        headers.append((_TIMEOUT, b"%d" % max(1, math.ceil(1000 * left_s))))
    return [*headers, (b"content-type", CONTENT_TYPE)]
