"""One request and its response on uvicorn's cycle: a single write, and errors in a body."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from tidegate.service.errors import BadRequest

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent


class Exchange(RequestResponseCycle):
    """uvicorn's cycle; when the response starts, `ends_connection` decides if it is the last one.

    If the body is malformed, `receive` raises BadRequest, so that the handler responds to it.
    """

    def __init__(self, ends_connection: Callable[[], bool], **options: Any) -> None:
        super().__init__(**options)
        self.fault: BadRequest | None = None
        self._ends_connection = ends_connection
        self.transport = CoalescedResponse(self)  # type: ignore[assignment]  # has all methods that a cycle uses

    async def send(self, message: ASGISendEvent) -> None:
        """Send one ASGI message; the last response's head has `connection: close`."""
        if not (self.response_started or self.disconnected) and self._ends_connection():
            self.keep_alive = False
        await super().send(message)

    async def receive(self) -> ASGIReceiveEvent:
        """Wait for the next part of the body and return it, or return the disconnect.

        Unlike uvicorn, reading stays paused once the body is complete, because later bytes belong
        to the next request. Raises BadRequest for a malformed body.
        """
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            if self.more_body:
                self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.fault is not None:
            raise self.fault
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}


class CoalescedResponse:
    """A response's transport that sends the head together with the first piece of the body.

    This saves a packet: each one passes through the kernel and wakes up the client.
    """

    __slots__ = ("_cycle", "_head", "_started", "_transport")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = weakref.ref(cycle)  # a reference cycle would keep the body in memory
        self._transport = cycle.transport
        self._started = cycle.scope["method"] == "HEAD"  # has no body to wait for
        self._head = b""

    def write(self, data: bytes) -> None:
        """Write, or delay the head; what precedes it (100 Continue) is sent at once.

        Does nothing once the cycle is collected, because its connection is lost.
        """
        cycle = self._cycle()
        if cycle is None:
            return
        if cycle.response_started and not self._started:
            self._started, self._head = True, data
            return
        self._transport.write(self._head + data)
        self._head = b""

    def close(self) -> None:
        """Send a delayed head; close the connection if the response is incomplete.

        After a complete response the protocol closes it, because the client may still be sending.
        """
        if self._head:
            self.write(b"")
        cycle = self._cycle()
        if cycle is not None and not cycle.response_complete:
            self._transport.close()

    def is_closing(self) -> bool:
        """Return whether the connection is lost or closed."""
        return self._transport.is_closing()
