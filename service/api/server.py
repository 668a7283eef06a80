"""uvicorn's server with a drain that loses no request, and timeouts for its connections."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from tidegate.service.api.handshake import over_tls
from tidegate.service.api.protocol import BoundedHttpProtocol, bounded_http
from tidegate.service.api.wire import Wire
from tidegate.service.unix_socket import remove_unix

_CHECK_EVERY_S = 0.25
_HANDSHAKE_S = 0.2  # for TCP handshakes in progress when the listener stops accepting new ones
_SO_ATTACH_FILTER = 26  # Linux; the socket module does not name it
# Classic BPF on a listening socket, which sees TCP headers: drop SYN, pass everything else.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte of flags
    (0x45, 0, 1, 0x02),  # is SYN set?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # pass
)


def config_of(app: ASGIApp, drain_timeout_s: float) -> uvicorn.Config:
    """Return the configuration of a server for an app."""
    return uvicorn.Config(
        app,
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        proxy_headers=False,  # otherwise a client could claim any address
        server_header=False,
        timeout_graceful_shutdown=whole_seconds(drain_timeout_s),
    )


def whole_seconds(timeout_s: float) -> int:
    """Return the duration that uvicorn waits for, which it takes in whole seconds."""
    return max(1, round(timeout_s))


class Server(uvicorn.Server):
    """Handles no signals; after `begin_drain` every response closes its connection."""

    def __init__(self, config: uvicorn.Config, wire: Wire) -> None:
        config.http = bounded_http(wire)
        if wire.tls is not None:  # uvicorn only calls it
            config.http = over_tls(wire.tls, wire, config.http)  # type: ignore[assignment]
        super().__init__(config)
        self._wire = wire

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals."""
        yield

    def begin_drain(self) -> None:
        """Keep serving, but close each connection with its next response."""
        self._wire.draining = True

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until `should_exit`. Raises if the task that checks the timeouts fails."""
        async with asyncio.TaskGroup() as group:
            checking = group.create_task(self._check_connections())
            await super().serve(sockets)
            checking.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no new connections, finish requests in progress, and close idle connections."""
        self._wire.draining = self._wire.stopping = True
        for listener in sockets or ():
            refuse_connections(listener)
            remove_unix(listener)
        await asyncio.sleep(_HANDSHAKE_S)  # accepts the connections in the backlog
        await super().shutdown(sockets)

    async def _check_connections(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_CHECK_EVERY_S)
            now = loop.time()
            for connection in list(self.server_state.connections):
                assert isinstance(connection, BoundedHttpProtocol)  # noqa: S101 - set in __init__
                connection.check_time(now)


def refuse_connections(listener: socket.socket) -> None:
    """Make the kernel ignore new connections, so that the backlog is empty before closing.

    Closing a listening socket resets the connections in its backlog, whose clients may have sent a
    request already. Does nothing if the system does not support such a filter.
    """
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in _DROP_SYN))
    program = struct.pack("@HP", len(_DROP_SYN), ctypes.addressof(code))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
