"""HTTP/1.1 on uvicorn's cycle, with limits on bytes and time for every connection.

The requests of a connection are parsed one at a time: the next one is parsed when the response to
the previous one is complete. Bytes that a client sends ahead are kept unparsed. Reading continues
meanwhile, so that a disconnect is noticed, and pauses at a limit.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tidegate.service.api.connection import Connection
from tidegate.service.api.exchange import Exchange
from tidegate.service.api.framing import Refusal
from tidegate.service.api.limits import address_of
from tidegate.service.api.parser import RequestParser
from tidegate.service.api.scope import scope_of
from tidegate.service.api.tls import certificate_name
from tidegate.service.api.wire import Wire
from tidegate.service.errors import BadRequest

MAX_AHEAD_BYTES = 64 * 1024  # sent before the previous response is complete; then reading pauses
MAX_DROPPED_BYTES = 128 << 20  # of a body that no handler reads
DROP_TIMEOUT_S = 30.0  # to receive all of a body that no handler reads
SILENCE_TIMEOUT_S = 5.0  # between reads of a dropped body, and to send the last bytes of a response
WRITE_TIMEOUT_S = 30.0  # for a client to read what fills the write buffer
STOP_GRACE_S = 1.0  # idle time after which a stopping server closes a connection
HALF_CLOSE_S = 0.25  # if input ends this soon after a whole request, the client still reads


class BoundedHttpProtocol(HttpToolsProtocol):
    """One client connection. `bounded_http` sets the `wire` that it shares with the others.

    `check_time` must be called regularly: it ends connections whose client is too slow. uvicorn's
    parser is not used. A request is `unanswered` from its head to the end of its response, and
    `answering` from its last byte to the end of its response.
    """

    wire = Wire()
    cycle: Exchange

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._connection = Connection()
        self._requests = RequestParser(self)
        self._unanswered = self._answering = self._input_ended = False
        self._deaf = False  # input is dropped, not parsed
        self._ahead, self._dropped = bytearray(), 0
        self._heard = 0.0  # when the last bytes arrived; all times are on the loop's clock
        self._due = math.inf  # the deadline of the client's next action
        self._drop_due = self._write_due = math.inf
        self._address = ""  # the client's, while this connection is counted

    # Called by the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it too
        """Wait for the first head, or reject the connection if it is beyond the limit."""
        super().connection_made(transport)
        self._connection.certificate = certificate_name(transport)
        is_proxy = self.wire.is_proxy(self.client)
        if self.wire.connections.open(address := address_of(self.client), is_proxy):
            self._address = address
        else:
            self._deaf = True
            self.wire.refuse_connection(transport, self.server_state.default_headers)
        self._heard = self.loop.time()
        self._due = self._heard + (STOP_GRACE_S if self.wire.stopping else self.wire.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop all references, so that no reference cycle needs the garbage collector."""
        self._due = self._write_due = math.inf
        self._deaf, self._ahead = True, bytearray()
        if self._address:
            self.wire.connections.close(self._address)
            self.wire.half_closed.forget(self._address, self.transport)
        super().connection_lost(exc)
        self._connection.end()
        self._requests.close()
        self.cycle = None  # type: ignore[assignment]  # only a running handler needs it

    def data_received(self, data: bytes) -> None:
        """Parse the data, keep it for later, or drop it."""
        self._heard = self.loop.time()
        taken = 0 if self._answering or self._deaf else self._take(data)
        if taken == len(data):
            return
        if self._deaf:
            self._drop(len(data) - taken)
            return
        self._ahead += data[taken:]
        if len(self._ahead) > MAX_AHEAD_BYTES:
            self.flow.pause_reading()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn narrows it
        """Return whether to keep the connection, because the client may still read.

        A client that has disconnected and one that has shut down its sending side look the same
        until something is written. If the input ends right after a whole request, the client is
        assumed to read, and is answered. If it ends later, or if the address has too many such
        connections, the client is assumed to have disconnected. TLS closes both sides.
        """
        self._input_ended = True
        if self.scheme == "https":
            return False
        now = self.loop.time()
        is_whole = self._answering or (self._unanswered and self.cycle.fault is not None)
        if not is_whole or now - self._heard > HALF_CLOSE_S:
            return False
        return self.wire.half_closed.admit(self._address, self.transport, now)

    def pause_writing(self) -> None:
        """Start the timeout for the client to read."""
        super().pause_writing()
        self._write_due = self.loop.time() + WRITE_TIMEOUT_S

    def resume_writing(self) -> None:
        """Stop the timeout: the client reads."""
        super().resume_writing()
        self._write_due = math.inf

    # Called by the server

    def check_time(self, now: float) -> None:
        """End the connection if the client has missed a deadline."""
        if now < self._due and now < self._write_due:
            return
        if self._deaf or self._write_due <= now:
            self.transport.abort()
        elif self.flow.read_paused:  # the handler does not read, so the client is not late
            self._due = now + self.wire.body_stall_s
        else:
            self._close()

    def shutdown(self) -> None:
        """Close the connection when it has been idle for STOP_GRACE_S."""
        if self._requests.is_between and not self._unanswered:
            self._due = min(self._due, self._heard + STOP_GRACE_S)

    # Requests

    def _take(self, data: bytes | bytearray) -> int:
        """Parse until a request is complete and waits for its response; return the bytes parsed."""
        start = 0
        while start < len(data) and not self._answering and not self._deaf:
            if self._requests.is_between:
                self._due = self._heard + self.wire.head_timeout_s
            try:
                start = self._requests.feed(data, start)
            except Refusal as refusal:
                self._refuse(refusal)
                return len(data)
            if not self._requests.in_head:
                self._wait_for_body()
        return start

    def _wait_for_body(self) -> None:
        if self._unanswered:
            self._due = self._heard + self.wire.body_stall_s
        elif self._dropped > MAX_DROPPED_BYTES:
            self._close()
        else:
            self._due = min(self._drop_due, self._heard + SILENCE_TIMEOUT_S)

    def on_head(self) -> None:
        """Start the handler."""
        request = self._requests
        self._dropped = 0
        self._connection.body_is_here, self._connection.body_bytes = False, 0
        self.scope = scope_of(request, self, self._connection)
        self.cycle = Exchange(
            self._is_last_answer,
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=request.framing.expects_100,
            keep_alive=request.keep_alive,
            on_response=self.on_response_complete,
        )
        self._unanswered = True
        self._start_asgi_task(self.cycle, self.app)

    def on_body(self, body: bytes) -> None:
        """Pass a piece of the body to the handler, or drop it if the response is complete."""
        cycle = self.cycle
        self._connection.body_bytes += len(body)
        if not self._unanswered:
            self._dropped += len(body)
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_end(self) -> None:
        """Wait for the response, or for the next request if the response is already complete."""
        self._connection.body_is_here = True
        if not self._unanswered:
            self._wait_for_next()
            return
        self.cycle.more_body = False
        self.cycle.message_event.set()
        self._answering, self._due = True, math.inf
        # A large last piece may have paused reading, and only reading notices a disconnect.
        self._read_on()

    # Responses and closing

    def on_response_complete(self) -> None:
        """Close the connection, drop the rest of the body, or parse what was sent ahead."""
        self.server_state.total_requests += 1
        is_whole = self._answering
        self._answering = self._unanswered = False
        self.cycle.body = bytearray()  # what the handler did not read
        if self.transport.is_closing():
            return
        if not self.cycle.keep_alive:
            self._close(more_may_come=not is_whole)
        elif not is_whole:
            self.flow.resume_reading()
            self._heard = self.loop.time()
            self._drop_due = self._heard + DROP_TIMEOUT_S
            self._wait_for_body()
        else:
            self._wait_for_next()
            self._go_on()

    def _go_on(self) -> None:
        """Parse the next request from what was sent ahead."""
        if self._ahead:
            taken = self._take(self._ahead)
            del self._ahead[:taken]
            self._read_on()
        if self._input_ended and not self._answering:
            self._close()

    def _wait_for_next(self) -> None:
        self._heard = self.loop.time()
        self._due = self._heard + (STOP_GRACE_S if self.wire.stopping else self.wire.keep_alive_s)

    def _read_on(self) -> None:
        if len(self._ahead) <= MAX_AHEAD_BYTES:
            self.flow.resume_reading()

    def _is_last_answer(self) -> bool:
        """Return whether the connection closes after the response that starts now."""
        cycle, draining = self.cycle, self.wire.draining
        if self._answering:
            return not self._ahead and (self._input_ended or draining)
        # Without 100 Continue, it is unknown whether the client sends the body.
        unread = cycle.waiting_for_100_continue or self._requests.body_left > MAX_DROPPED_BYTES
        return unread or draining or self._deaf

    def _refuse(self, refusal: Refusal) -> None:
        """Respond to invalid HTTP, or let the handler that reads the body do so."""
        self._deaf = True
        if self._unanswered:
            self.cycle.fault = BadRequest(str(refusal))
            self.cycle.message_event.set()
            self._due = math.inf
        elif self._requests.in_head:
            fields, defaults = self._requests.headers, self.server_state.default_headers
            self.transport.write(self.wire.refuse(refusal, fields, defaults, self._address))
            self._close(more_may_come=True)
        else:  # in a body that is dropped
            self._close()

    def _close(self, *, more_may_come: bool = False) -> None:
        """Close the connection; if the client may still be sending, close only our side first.

        Bytes that arrive at a closed socket reset the connection, and a reset destroys what the
        client has not read yet. So we read and drop them until the client closes or times out.
        TLS cannot close one side: there the response says `connection: close`.
        """
        now = self.loop.time()
        self._due, self._drop_due = now + SILENCE_TIMEOUT_S, now + DROP_TIMEOUT_S
        more_may_come = more_may_come or bool(self._ahead) or self.flow.read_paused
        self._deaf, self._ahead = True, bytearray()
        if more_may_come and not self._input_ended and self.scheme == "https":
            self.flow.resume_reading()
        elif more_may_come and not self._input_ended and self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()

    def _drop(self, size: int) -> None:
        self._dropped += size
        if self._dropped > MAX_DROPPED_BYTES:
            self.transport.abort()
        elif not self._unanswered:
            self._due = min(self._drop_due, self._heard + SILENCE_TIMEOUT_S)


def bounded_http(shared: Wire) -> type[BoundedHttpProtocol]:
    """Return the protocol class for connections with the wire `shared`; uvicorn needs a class."""

    class Http(BoundedHttpProtocol):
        wire = shared

    return Http
