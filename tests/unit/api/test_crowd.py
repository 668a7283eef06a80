"""The limits on open and half-closed connections of a client address."""

from __future__ import annotations

import math

import pytest

from tests.unit.api.connecting import FakeTransport, Slow, connected, run, until, upload
from tidegate.service.api import crowd, protocol
from tidegate.service.api.crowd import MAX_HALF_CLOSED, Connections, HalfClosed
from tidegate.service.api.protocol import BoundedHttpProtocol
from tidegate.service.api.wire import Wire

OURS, THEIRS = "192.0.2.1", "192.0.2.2"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no limit of time decide: the connections of a test may be seconds apart."""
    monkeypatch.setattr(protocol, "HALF_CLOSE_S", math.inf)
    monkeypatch.setattr(crowd, "_CROWD_S", math.inf)


def half_closed(wire: Wire, client: str) -> tuple[bool, FakeTransport]:
    """Connect, send a request and end the input; return whether the connection is kept."""
    connection, transport = connected(Slow(), wire, client)
    connection.data_received(upload(b"1"))
    return connection.eof_received(), transport


@pytest.mark.usefixtures("slow_machine")
def test_too_many_half_closed_connections_are_closed() -> None:
    async def scene() -> None:
        wire = Wire()
        connections = [half_closed(wire, OURS) for _ in range(MAX_HALF_CLOSED + 1)]

        assert [kept for kept, _ in connections] == [True] * MAX_HALF_CLOSED + [False]
        assert all(transport.aborted for _, transport in connections[:-1])
        assert not half_closed(wire, OURS)[0]

    run(scene())


@pytest.mark.usefixtures("slow_machine")
def test_the_half_closed_connections_of_one_address_do_not_affect_others() -> None:
    async def scene() -> None:
        wire = Wire()
        kept, before = half_closed(wire, THEIRS)
        for _ in range(MAX_HALF_CLOSED + 1):
            half_closed(wire, OURS)

        assert kept
        assert not before.aborted
        assert half_closed(wire, THEIRS)[0]

    run(scene())


def test_half_closed_connections_are_accepted_again_after_a_second() -> None:
    crowds, transport = HalfClosed(), FakeTransport()
    for now in range(MAX_HALF_CLOSED + 1):
        crowds.admit(OURS, FakeTransport(), now / 100)

    assert not crowds.admit(OURS, transport, 0.9)
    assert crowds.admit(OURS, transport, 1.2)
    crowds.forget(OURS, transport)
    assert crowds.admit(THEIRS, transport, 2.0)
    assert not crowds._crowd_until
    assert crowds._transports == {THEIRS: {transport}}


@pytest.mark.parametrize("client", [OURS, "2001:db8::1"])
def test_the_connections_of_an_address_are_limited(client: str) -> None:
    async def scene() -> None:
        shed: list[int] = []
        wire = Wire(on_shed=lambda: shed.append(1), connections=Connections(max_per_client=2))
        first, open_one = answering(wire, client)
        answering(wire, client)
        refused, closed_one = answering(wire, client.replace("::1", "::2"))
        other, _ = answering(wire, THEIRS)

        (answer,) = closed_one.written
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nretry-after: 1\r\n" in answer
        assert b"\r\nconnection: close\r\n" in answer
        assert (closed_one.closed, len(shed)) == (True, 1)
        refused.data_received(GET)  # what it sends is not parsed
        assert len(closed_one.written) == 1
        first.data_received(GET)
        await until(lambda: open_one.written)
        assert open_one.written[0].startswith(b"HTTP/1.1 204")

        refused.connection_lost(None)  # it was not counted
        first.connection_lost(None)
        _, next_one = answering(wire, client)
        assert not next_one.closed
        assert not other.transport.closed  # type: ignore[attr-defined]  # the fake

    def answering(wire: Wire, client: str) -> tuple[BoundedHttpProtocol, FakeTransport]:
        slow = Slow()
        slow.may_answer.set()
        return connected(slow, wire, client)

    run(scene())


def test_the_total_of_connections_can_be_limited() -> None:
    connections = Connections(max_in_all=2)

    assert [connections.open(client) for client in (OURS, THEIRS, "192.0.2.3")] == [
        True,
        True,
        False,
    ]
    connections.close(OURS)
    assert connections.open("192.0.2.3")
    assert OURS not in connections._open
