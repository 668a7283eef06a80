"""HTTP/1.1 on uvicorn's cycle, with a bound in bytes and in time on every connection.

Requests of one connection are parsed one at a time: the next one only once the answer to the one
before is complete. What a client sends ahead waits unparsed, up to a bound; beyond it reading is
paused. Until there reading goes on, so that a client that leaves is noticed.
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
from tidegate.service.api.wire import Wire
from tidegate.service.errors import BadRequest

MAX_AHEAD_BYTES = 64 * 1024  # sent before the answer to an earlier request; then reading pauses
MAX_DROPPED_BYTES = 128 << 20  # of a body that nothing reads; more than any client sends unasked
DROP_TIMEOUT_S = 30.0  # for all of a body that nothing reads
SILENCE_TIMEOUT_S = 5.0  # while a body is dropped, and for the last bytes of an answer to be taken
WRITE_TIMEOUT_S = 30.0  # for a client to read what fills the write buffer
STOP_GRACE_S = 1.0  # quiet time before a stopping server closes an idle connection
HALF_CLOSE_S = 0.25  # end of input this soon after a whole request: the client still reads


class BoundedHttpProtocol(HttpToolsProtocol):
    """One client connection. `bounded_http` gives it the `wire` it shares with the others.

    `check_time` must be called from time to time: it ends what has waited too long for the client.
    uvicorn's own parser is not used. A request is `unanswered` from its head to the end of its
    answer, and `answering` in that time once all of it has arrived.
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
        self._heard = 0.0  # when the last bytes arrived, on the loop's clock as all times here
        self._due = math.inf  # when the client has to have done what is waited for
        self._drop_due = self._write_due = math.inf
        self._address = ""  # of the client, while this connection counts for its share

    # What the transport calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it too
        """Wait for the first head, or refuse one connection too many."""
        super().connection_made(transport)
        if self.wire.connections.open(address := address_of(self.client)):
            self._address = address
        else:
            self._deaf = True
            self.wire.refuse_connection(transport, self.server_state.default_headers)
        self._heard = self.loop.time()
        self._due = self._heard + (STOP_GRACE_S if self.wire.stopping else self.wire.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what is held, without a cycle that the collector would have to find."""
        self._due = self._write_due = math.inf
        self._deaf, self._ahead = True, bytearray()
        if self._address:
            self.wire.connections.close(self._address)
            self.wire.half_closed.forget(self._address, self.transport)
        super().connection_lost(exc)
        self._connection.end()
        self._requests.close()
        self.cycle = None  # type: ignore[assignment]  # only a handler that still runs needs it

    def data_received(self, data: bytes) -> None:
        """Parse, keep for later, or drop."""
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
        """Keep the connection if the client has only stopped sending; False closes it.

        A client that has left and one that has shut down its sending side look the same until
        something is written. The end of input right after a whole request is taken for the
        second, and answered; later, or in a crowd, for the first, which costs nothing more.
        """
        self._input_ended = True
        now = self.loop.time()
        is_whole = self._answering or (self._unanswered and self.cycle.fault is not None)
        if not is_whole or now - self._heard > HALF_CLOSE_S:
            return False
        return self.wire.half_closed.admit(self._address, self.transport, now)

    def pause_writing(self) -> None:
        """Give the client a time to read."""
        super().pause_writing()
        self._write_due = self.loop.time() + WRITE_TIMEOUT_S

    def resume_writing(self) -> None:
        """Wait no more: the client reads."""
        super().resume_writing()
        self._write_due = math.inf

    # What the server calls

    def check_time(self, now: float) -> None:
        """End the connection if the client has not done in time what is waited for."""
        if now < self._due and now < self._write_due:
            return
        if self._deaf or self._write_due <= now:
            self.transport.abort()
        elif self.flow.read_paused:  # it is the handler that does not read
            self._due = now + self.wire.body_stall_s
        else:
            self._close()

    def shutdown(self) -> None:
        """Close the connection once it is idle, and has been quiet for a moment."""
        if self._requests.is_between and not self._unanswered:
            self._due = min(self._due, self._heard + STOP_GRACE_S)

    # Requests

    def _take(self, data: bytes | bytearray) -> int:
        """Parse up to a request that has to be answered first; return how many bytes that took."""
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
        self._connection.body_is_here = False
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
        """Hand over a piece of the body, or drop it if the answer is complete."""
        cycle = self.cycle
        if not self._unanswered:
            self._dropped += len(body)
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_end(self) -> None:
        """Wait for the answer, or for the next request if it is complete already."""
        self._connection.body_is_here = True
        if not self._unanswered:
            self._wait_for_next()
            return
        self.cycle.more_body = False
        self.cycle.message_event.set()
        self._answering, self._due = True, math.inf
        # A large last piece has paused reading; a client that leaves is only noticed by reading.
        self._read_on()

    # Answers and endings

    def on_response_complete(self) -> None:
        """Close, or drop the rest of the body, or go on with what was sent ahead."""
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
        """Take the next request from what was sent ahead."""
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
        """Return whether the connection ends with the answer that starts now."""
        cycle, draining = self.cycle, self.wire.draining
        if self._answering:
            return not self._ahead and (self._input_ended or draining)
        # A client that has not been asked for its body may send it, or may not.
        unread = cycle.waiting_for_100_continue or self._requests.body_left > MAX_DROPPED_BYTES
        return unread or draining or self._deaf

    def _refuse(self, refusal: Refusal) -> None:
        """Answer bytes that are not HTTP, or leave that to the handler that reads them."""
        self._deaf = True
        if self._unanswered:
            self.cycle.fault = BadRequest(str(refusal))
            self.cycle.message_event.set()
            self._due = math.inf
        elif self._requests.in_head:
            fields, defaults = self._requests.headers, self.server_state.default_headers
            self.transport.write(self.wire.refuse(refusal, fields, defaults))
            self._close(more_may_come=True)
        else:  # in a body that is dropped
            self._close()

    def _close(self, *, more_may_come: bool = False) -> None:
        """Close the connection; if the client may be sending, only once it has had its answer.

        Bytes that arrive at a closed socket reset the connection, and a reset destroys what the
        client has not read. So our side is closed first, and the rest is read and dropped.
        """
        now = self.loop.time()
        self._due, self._drop_due = now + SILENCE_TIMEOUT_S, now + DROP_TIMEOUT_S
        more_may_come = more_may_come or bool(self._ahead) or self.flow.read_paused
        self._deaf, self._ahead = True, bytearray()
        if more_may_come and not self._input_ended and self.transport.can_write_eof():
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
    """Return the protocol class for connections that share `shared`, as uvicorn wants it."""

    class Http(BoundedHttpProtocol):
        wire = shared

    return Http
