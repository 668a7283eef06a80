"""The HTTP server of a front end: it has no listener, and is handed its connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

import uvicorn

from tidegate.service.api.limits import address_of
from tidegate.service.api.server import Server
from tidegate.service.api.wire import Wire
from tidegate.service.fronts.handover import DealtConnections


class FrontServer(Server):
    """Serves the connections that `take` gets."""

    def __init__(
        self,
        config: uvicorn.Config,
        wire: Wire,
        dealt: DealtConnections,
        on_started: Callable[[], None],
    ) -> None:
        """`on_started` is called once connections can be taken; `dealt` counts them."""
        super().__init__(config, wire)
        self._dealt = dealt
        self._on_started = on_started
        self._opening: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as a server with sockets does."""
        await super().startup(sockets)
        self._on_started()

    def take(self, descriptor: int, number: int) -> None:
        """Serve an accepted connection."""
        connection = socket.socket(fileno=descriptor)
        connection.setblocking(False)
        task = asyncio.create_task(self._open(connection, number))
        self._opening.add(task)  # otherwise the loop has the only reference, a weak one
        task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket, number: int) -> None:
        client = address_of(_peer_of(connection))
        self._dealt.arrive(client, number)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()
            self._dealt.fail(client)

    def _protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        return protocol


def _peer_of(connection: socket.socket) -> tuple[str, int] | None:
    """Return what uvicorn takes as the client of a connection."""
    with contextlib.suppress(OSError):
        peer = connection.getpeername()
        if isinstance(peer, tuple):
            return str(peer[0]), int(peer[1])
    return None
