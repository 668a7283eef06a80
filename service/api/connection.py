"""The state of a client connection, for the handlers of its requests.

It is in the ASGI scope, so that a handler notices a disconnect without a task that waits for
messages. Used on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any


class ClientGone(Exception):
    """The client disconnected before its answer."""


class Connection:
    """One client connection; its requests are handled one after another."""

    __slots__ = ("body_bytes", "body_is_here", "certificate", "lost", "on_loss")

    KEY = "tidegate.connection"

    def __init__(self) -> None:
        self.body_is_here = False  # all bytes of the current request have arrived
        self.body_bytes = 0  # how many of them have
        self.certificate = ""  # the name in the client's certificate
        self.lost = False
        self.on_loss: set[Callable[[], None]] = set()

    @classmethod
    def of(cls, scope: MutableMapping[str, Any]) -> Connection:
        """Return the connection of this ASGI scope; with another server, one that is never lost."""
        connection: Connection = scope.get(cls.KEY) or cls()
        return connection

    def end(self) -> None:
        """Mark the connection as lost and call every registered callback."""
        self.lost = True
        for on_loss in list(self.on_loss):
            on_loss()
