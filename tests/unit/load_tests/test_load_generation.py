"""The generator's accounting, on a real socket with a named fake for a server."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from load_tests.arrivals import constant
from load_tests.client import MAX_RESPONSE_BYTES, Pool
from load_tests.generate import Outcome, closed_loop, open_loop

REQUEST = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nimage"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
PROBLEM = b'{"type": "https://tidegate.dev/problems/overloaded", "status": 503}'
OVERLOADED = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\n"
    b"Content-Type: application/problem+json\r\nContent-Length: %d\r\n\r\n%s"
    % (len(PROBLEM), PROBLEM)
)
STALL_S = 0.4


@dataclass
class FakeServer:
    """Reads whole requests, waits until its gate is open, and sends `replies` in turn.

    An empty reply hangs up instead. With `trickle` each byte is a packet of its own.
    """

    replies: list[bytes]
    trickle: bool = False
    silent_until: int = 0  # requests that must have arrived before the first is answered
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self._next = itertools.cycle(self.replies)
        if not self.silent_until:
            self.gate.set()

    def stall(self, seconds: float) -> None:
        self.gate.clear()
        asyncio.get_running_loop().call_later(seconds, self.gate.set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await _read_head(reader):
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                self.bodies.append(await reader.readexactly(length))
                if len(self.bodies) == self.silent_until:
                    self.gate.set()
                await self.gate.wait()
                if not (reply := next(self._next)):
                    break
                await self._write(writer, reply)
                if b"connection: close" in reply.lower():
                    break
        except ConnectionError:
            pass  # the client gave up first
        finally:
            writer.close()

    async def _write(self, writer: asyncio.StreamWriter, reply: bytes) -> None:
        step = 1 if self.trickle else len(reply)
        for i in range(0, len(reply), step):
            writer.write(reply[i : i + step])
            await asyncio.sleep(0)  # lets the packet leave and be read on its own


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


@asynccontextmanager
async def _running(fake: FakeServer, max_connections: int) -> AsyncIterator[Pool]:
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    pool = Pool("127.0.0.1", server.sockets[0].getsockname()[1], max_connections)
    try:
        yield pool
    finally:
        pool.close()
        fake.gate.set()
        server.close()
        await server.wait_closed()


def _open(fake: FakeServer, count: int, rate: float, **options: float) -> list[Outcome]:
    """`count` requests at a constant rate; `stall_s` closes the fake's gate for that long first."""

    async def run() -> list[Outcome]:
        async with _running(fake, int(options.get("max_connections", 64))) as pool:
            if stall_s := options.get("stall_s"):
                fake.stall(stall_s)
            offsets = constant(rate, count / rate)
            timeout_s = options.get("timeout_s", 10.0)
            return await open_loop(pool, itertools.repeat(REQUEST), offsets, timeout_s)

    return asyncio.run(run())


@pytest.mark.parametrize("max_connections", [1, 64])
def test_a_stall_is_charged_to_every_request_that_it_delayed(max_connections: int) -> None:
    fake = FakeServer([OK])

    outcomes = _open(fake, 60, rate=100, stall_s=STALL_S, max_connections=max_connections)

    # Requests are meant to leave every 10 ms and none is answered for 400 ms, so request i waits
    # about 400 − 10·i ms, wherever it waits. 20 ms: timer and scheduling noise before the stall.
    assert all(o.answered for o in outcomes)
    for i, outcome in enumerate(outcomes[:40]):
        assert outcome.latency_s >= STALL_S - 0.01 * i - 0.02


def test_timing_from_the_write_alone_would_have_hidden_the_stall() -> None:
    fake = FakeServer([OK])

    outcomes = _open(fake, 60, rate=100, stall_s=STALL_S, max_connections=1)

    slow = STALL_S / 4
    assert sum(o.latency_s > slow for o in outcomes) >= 25
    # One by the stall; a few more if the machine is busy. Open-loop latency sees at least 25.
    assert 1 <= sum(o.service_s is not None and o.service_s > slow for o in outcomes) < 10


def test_open_loop_requests_leave_while_the_server_stalls() -> None:
    fake = FakeServer([OK], silent_until=30)

    outcomes = _open(fake, 30, rate=1000)

    # Answers came only once all 30 were there: a closed loop would still be waiting for the first.
    assert all(o.answered for o in outcomes)


def test_statuses_codes_and_retry_after_are_noted_per_request() -> None:
    fake = FakeServer([OK, OVERLOADED])

    outcomes = _open(fake, 10, rate=1000, max_connections=1)

    assert [o.status for o in outcomes] == [200, 503] * 5
    assert {o.code for o in outcomes if o.status == 503} == {"overloaded"}
    assert {o.retry_after_s for o in outcomes if o.status == 503} == {2.0}
    assert {o.answered for o in outcomes if o.status == 503} == {False}


def test_an_out_of_distribution_refusal_counts_as_answered() -> None:
    body = b'{"type": "urn:tidegate:problem:out-of-distribution"}'
    reply = b"HTTP/1.1 422 No\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    outcomes = _open(FakeServer([reply]), 1, rate=1000)

    assert outcomes[0].answered


def test_whole_bodies_arrive_over_kept_connections() -> None:
    fake = FakeServer([OK])

    _open(fake, 20, rate=1000, max_connections=2)

    assert fake.bodies == [b"image"] * 20
    assert fake.connections <= 2


def test_a_hang_up_is_an_error_and_the_next_request_has_a_new_connection() -> None:
    fake = FakeServer([OK, b""])

    outcomes = _open(fake, 6, rate=1000, max_connections=1)

    assert [o.error for o in outcomes] == [None, "disconnected"] * 3
    assert fake.connections == 3


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{}", "disconnected"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * MAX_RESPONSE_BYTES)
            + bytes(MAX_RESPONSE_BYTES + 1),
            "malformed",
        ),
    ],
    ids=["not-http", "truncated", "too-large"],
)
def test_a_broken_response_is_an_error(reply: bytes, error: str) -> None:
    outcomes = _open(FakeServer([reply]), 1, rate=1000)

    assert [o.error for o in outcomes] == [error]


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    ],
    ids=["framed-by-close", "chunked", "continue-first"],
)
@pytest.mark.parametrize("trickle", [False, True])
def test_every_framing_of_http_is_read(reply: bytes, trickle: bool) -> None:
    outcomes = _open(FakeServer([reply], trickle), 3, rate=1000, max_connections=1)

    assert [o.status for o in outcomes] == [200] * 3


def test_a_timeout_is_an_error_and_takes_its_connection_with_it() -> None:
    fake = FakeServer([OK])

    outcomes = _open(fake, 3, rate=1000, stall_s=30, timeout_s=0.1)

    assert [o.error for o in outcomes] == ["timeout"] * 3
    assert all(0.1 <= o.latency_s < 5 for o in outcomes)


def test_refused_connections_are_counted_not_raised() -> None:
    with socket.socket() as unlistened:  # bound, so that nobody else listens there
        unlistened.bind(("127.0.0.1", 0))
        port = unlistened.getsockname()[1]

        async def run() -> list[Outcome]:
            pool = Pool("127.0.0.1", port, 4)
            return await open_loop(pool, itertools.repeat(REQUEST), constant(100, 0.05), 1.0)

        outcomes = asyncio.run(run())

    assert [o.error for o in outcomes] == ["refused"] * 5
    assert {o.service_s for o in outcomes} == {None}


def test_closed_loop_keeps_its_number_of_connections_and_stops() -> None:
    fake = FakeServer([OK])

    async def run() -> list[Outcome]:
        async with _running(fake, 3) as pool:
            return await closed_loop(pool, itertools.repeat(REQUEST), 3, 0.2, 1.0)

    outcomes = asyncio.run(run())

    assert len(outcomes) > 10
    assert all(o.answered for o in outcomes)
    assert fake.connections == 3
