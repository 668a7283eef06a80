"""Accept connections, and deal each to the front end that has the fewest.

A hash of the kernel's, with few connections, leaves some processes idle and others overloaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import socket
from collections.abc import Callable, Iterable, Sequence

from tidegate.service.api.limits import address_of
from tidegate.service.api.server import refuse_connections
from tidegate.service.api.wire import Wire
from tidegate.service.fronts.worker import Worker
from tidegate.service.unix_socket import remove_unix

log = logging.getLogger(__name__)

_AT_A_TIME = 64  # connections, before the loop does something else
_PAUSE_S = 0.05  # if there is no descriptor, or no front end takes or reads connections
_HANDSHAKE_S = 0.2  # for TCP handshakes in progress when no new ones are accepted
_NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Dealer:
    """Owns the listening sockets. Used on the event loop."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        wire: Wire,
        workers: Callable[[], Iterable[Worker]],
    ) -> None:
        """`workers` returns those that take connections; `wire` has the limits of clients."""
        self._listeners = list(listeners)
        self._wire = wire
        self._workers = workers
        self._numbers = itertools.count()
        self._loop = asyncio.get_running_loop()
        self._is_open = False
        self._pausing: asyncio.TimerHandle | None = None
        for listener in self._listeners:
            listener.setblocking(False)

    def open(self) -> None:
        """Accept connections, as some front end takes them."""
        if not self._is_open:
            self._is_open = True
            for listener in self._listeners:
                self._loop.add_reader(listener, self._accept, listener)

    def pause(self) -> None:
        """Leave new connections to the kernel's queue."""
        if self._is_open:
            self._is_open = False
            for listener in self._listeners:
                self._loop.remove_reader(listener)

    async def close(self) -> None:
        """Accept what is in the kernel's queues, so that nothing is reset, and nothing more."""
        for listener in self._listeners:
            refuse_connections(listener)
            remove_unix(listener)
        await asyncio.sleep(_HANDSHAKE_S)
        self.pause()
        if self._pausing is not None:
            self._pausing.cancel()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def closed(self, address: str) -> None:
        """Count a connection as closed."""
        self._wire.connections.close(address)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError, ConnectionAbortedError):
            for _ in range(_AT_A_TIME):
                workers = sorted(self._workers(), key=lambda one: len(one.connections))
                if not workers:  # the kernel keeps them, until one has started
                    self._rest()
                    return
                try:
                    connection, peer = listener.accept()
                except OSError as error:
                    if error.errno not in _NO_DESCRIPTOR:
                        raise
                    log.warning("cannot accept a connection: %s", error.strerror)
                    self._rest()
                    return
                with connection:  # the front end has a copy
                    self._deal(connection, peer if isinstance(peer, tuple) else None, workers)

    def _deal(
        self, connection: socket.socket, peer: tuple[str, int] | None, workers: Iterable[Worker]
    ) -> None:
        address = address_of(peer)
        if not self._wire.connections.open(address, self._wire.is_proxy(peer)):
            with contextlib.suppress(OSError):
                if self._wire.tls is None:
                    connection.send(self._wire.refusal_of_connection())
                else:  # it cannot be sent an answer
                    self._wire.on_shed()
            return
        number = next(self._numbers) & 0xFFFFFFFF
        for worker in workers:
            if worker.give(connection, number, address):
                return
        self.closed(address)
        log.warning("no front end takes connections; one was closed")
        self._rest()

    def _rest(self) -> None:
        self.pause()
        if self._pausing is None or self._pausing.when() < self._loop.time():
            self._pausing = self._loop.call_later(_PAUSE_S, self.open)
