"""The TLS handshake of a connection, bounded in time; it counts as a connection of its address."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from tidegate.service.api.limits import address_of
from tidegate.service.api.tls import Tls
from tidegate.service.api.wire import Wire

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S = 10.0
SHUTDOWN_TIMEOUT_S = 5.0  # for the client's close_notify


class Handshake(asyncio.Protocol):
    """A connection until its handshake is done; then its HTTP protocol takes over."""

    def __init__(self, tls: Tls, wire: Wire, make_http: Callable[[], asyncio.Protocol]) -> None:
        self._tls = tls
        self._wire = wire
        self._make_http = make_http
        self._early = bytearray()  # before the handshake starts, then before there is HTTP
        self._ended = self._lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a TCP server's
        """Start the handshake, or end a connection beyond the limit: it can be sent no answer.

        A unix socket is for a proxy on this machine, and is not encrypted.
        """
        if isinstance(transport.get_extra_info("sockname"), str):
            self._hand_over(transport)
            return
        transport.pause_reading()  # uvloop reads anyway, so `_start` passes on what arrives
        peer = transport.get_extra_info("peername")
        if not self._wire.connections.open(address := address_of(peer), self._wire.is_proxy(peer)):
            self._wire.on_shed()
            transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._shake(transport, address))
        self._wire.handshakes.add(task)  # otherwise the loop has the only reference, a weak one
        task.add_done_callback(self._wire.handshakes.discard)

    def data_received(self, data: bytes) -> None:
        """Keep what arrives too early."""
        self._early += data

    def eof_received(self) -> None:
        """Note the end of what arrives with the end of the handshake."""
        self._ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the client has gone."""
        self._lost = True

    async def _shake(self, transport: asyncio.Transport, address: str) -> None:
        encrypted = None
        try:
            encrypted = await self._start(transport)
        except (OSError, RuntimeError) as error:  # all of TLS; a transport that is closed
            log.debug("TLS handshake with %s failed: %s", address, error)
        finally:
            self._wire.connections.close(address)
            if encrypted is None:
                transport.abort()
        if encrypted is not None and not self._lost:
            self._hand_over(encrypted)

    async def _start(self, transport: asyncio.Transport) -> asyncio.Transport | None:
        loop = asyncio.get_running_loop()
        starting = loop.create_task(
            loop.start_tls(
                transport,
                self,
                self._tls.context_of(transport.get_extra_info("sockname")[1]),
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
                ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            )
        )
        await asyncio.sleep(0)  # start_tls has paused reading and scheduled the rest
        if self._early and not starting.done():
            loop.call_soon(_feed, transport.get_protocol(), bytes(self._early))
        self._early.clear()
        return await starting

    def _hand_over(self, transport: asyncio.Transport) -> None:
        http = self._make_http()
        transport.set_protocol(http)
        http.connection_made(transport)
        if self._early:
            http.data_received(bytes(self._early))
        if self._ended:
            http.eof_received()


def _feed(protocol: asyncio.BaseProtocol, data: bytes) -> None:
    """Pass encrypted data to the protocol that decrypts it."""
    decrypting = cast("asyncio.BufferedProtocol", protocol)  # uvloop's has its methods
    view = memoryview(data)
    while view:
        buffer = memoryview(decrypting.get_buffer(len(view)))
        count = min(len(view), len(buffer))
        buffer[:count] = view[:count]
        decrypting.buffer_updated(count)
        view = view[count:]


def over_tls(
    tls: Tls, wire: Wire, http: Callable[..., asyncio.Protocol]
) -> Callable[..., asyncio.Protocol]:
    """Return what makes the protocols of connections whose HTTP is encrypted."""

    def make(**options: Any) -> Handshake:
        return Handshake(tls, wire, partial(http, **options))

    return make
