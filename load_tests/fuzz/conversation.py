"""Sends arbitrary bytes on a new connection and collects every answer."""

import asyncio
import sys
from dataclasses import dataclass, field
from typing import cast

import httptools

from load_tests.client.connection import Response
from load_tests.client.requests import Target

AFTER_S = 0.1
_MOST_BYTES = 4 << 20


@dataclass
class Conversation:
    """Everything received until the server closed the connection or stopped sending."""

    answers: list[Response] = field(default_factory=list)
    bytes_received: int = 0
    closed: bool = False  # by the server
    fault: str = ""  # the first violation of HTTP


async def converse(
    target: Target, data: bytes, quiet_s: float, *, expected: int = 0, most_s: float = 30.0
) -> Conversation:
    """Send `data` and receive until the server closes or sends nothing for `quiet_s`.

    After `expected` answers, AFTER_S without data are enough.
    Raises OSError if the connection fails.
    """
    loop = asyncio.get_running_loop()
    create = loop.create_connection(lambda: _Listener(quiet_s, expected), target.host, target.port)
    transport, listener = await asyncio.wait_for(create, most_s)
    transport.write(data)
    try:
        await asyncio.wait_for(listener.over, most_s)
    except TimeoutError:
        listener.conversation.fault = f"not finished after {most_s:g} s"
    finally:
        transport.abort()
    return listener.conversation


class _Listener(asyncio.Protocol):
    def __init__(self, quiet_s: float, expected: int) -> None:
        self.conversation = Conversation()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._quiet_s, self._expected = quiet_s, expected or sys.maxsize
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer, self._body = Response(), bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._listen()

    def data_received(self, data: bytes) -> None:
        self._listen()
        self.conversation.bytes_received += len(data)
        if self.conversation.bytes_received > _MOST_BYTES:
            self._end(f"more than {_MOST_BYTES} bytes")
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._end(f"not HTTP: {error} in {data[:80]!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.conversation.closed = True
        self._end("")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.raw_headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        self._answer.body = bytes(self._body)
        if self._answer.status >= 200:
            self.conversation.answers.append(self._answer)
        self._answer, self._body = Response(), bytearray()
        self._listen()

    def _listen(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        all_here = len(self.conversation.answers) >= self._expected
        self._timer = loop.call_later(AFTER_S if all_here else self._quiet_s, self._end, "")

    def _end(self, fault: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.conversation.fault = self.conversation.fault or fault
        if not self.over.done():
            self.over.set_result(None)
