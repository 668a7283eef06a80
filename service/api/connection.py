"""What a request's handler may know about its connection, without a task that waits for messages.

It travels in the ASGI scope. Used on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any


class Connection:
    """One client connection; the requests on it are handled one after the other."""

    __slots__ = ("body_is_here", "lost", "on_loss")

    KEY = "tidegate.connection"

    def __init__(self) -> None:
        self.body_is_here = False  # the last byte of the request being read has arrived
        self.lost = False
        self.on_loss: set[Callable[[], None]] = set()

    @classmethod
    def of(cls, scope: MutableMapping[str, Any]) -> Connection:
        """Return the connection of this ASGI scope; one that is never lost if the server is
        another's.
        """
        connection: Connection = scope.get(cls.KEY) or cls()
        return connection

    def end(self) -> None:
        """Call every registered callback: the client has gone."""
        self.lost = True
        for on_loss in list(self.on_loss):
            on_loss()
