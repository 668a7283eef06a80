"""Connections are dealt evenly, within the limits of their clients."""

from __future__ import annotations

import asyncio
import resource
import socket
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

import pytest

from tidegate.service.addresses import listen
from tidegate.service.api.crowd import Connections
from tidegate.service.api.wire import Wire
from tidegate.service.fronts.dealer import Dealer
from tidegate.service.fronts.handover import (
    NONE_FREE,
    DealtConnections,
    Kind,
    hand_over,
    take_over,
)
from tidegate.service.fronts.worker import Worker

PATIENCE_S = 150.0


@dataclass
class FakeWorker:
    """Takes connections, unless it is full."""

    connections: dict[int, str] = field(default_factory=dict)
    is_full: bool = False

    def give(self, connection: socket.socket, number: int, address: str) -> bool:
        if not self.is_full:
            self.connections[number] = address
        return not self.is_full


def play(
    workers: list[FakeWorker],
    scene: Callable[[Dealer, tuple[str, int]], Awaitable[None]],
    limits: Connections | None = None,
) -> None:
    async def main() -> None:
        (listener,) = listen(["127.0.0.1"], 0)
        wire = Wire(connections=limits or Connections())
        dealer = Dealer([listener], wire, lambda: cast(list[Worker], workers))
        dealer.open()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await scene(dealer, listener.getsockname())
        finally:
            await dealer.close()

    asyncio.run(main())


async def connected(address: tuple[str, int], count: int) -> list[socket.socket]:
    return [await asyncio.to_thread(socket.create_connection, address) for _ in range(count)]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the kernel changes it
        await asyncio.sleep(0)


def dealt(workers: list[FakeWorker]) -> list[int]:
    return [len(worker.connections) for worker in workers]


def test_64_connections_over_four_front_ends_are_16_each() -> None:
    workers = [FakeWorker() for _ in range(4)]

    async def scene(dealer: Dealer, address: tuple[str, int]) -> None:
        opened = await connected(address, 64)
        await until(lambda: sum(dealt(workers)) == 64)

        assert dealt(workers) == [16] * 4
        for one in opened:
            one.close()

    play(workers, scene)


def test_the_one_with_the_fewest_is_next() -> None:
    workers = [FakeWorker(dict.fromkeys(range(3), "a")), FakeWorker()]

    async def scene(dealer: Dealer, address: tuple[str, int]) -> None:
        opened = await connected(address, 3)
        await until(lambda: sum(dealt(workers)) == 6)

        assert dealt(workers) == [3, 3]
        for one in opened:
            one.close()

    play(workers, scene)


def test_a_front_end_that_does_not_read_is_left_out() -> None:
    workers = [FakeWorker(is_full=True), FakeWorker()]

    async def scene(dealer: Dealer, address: tuple[str, int]) -> None:
        opened = await connected(address, 4)
        await until(lambda: sum(dealt(workers)) == 4)

        assert dealt(workers) == [0, 4]
        for one in opened:
            one.close()

    play(workers, scene)


@pytest.mark.lengthy
def test_while_no_front_end_takes_connections_they_wait() -> None:
    workers: list[FakeWorker] = []

    async def scene(dealer: Dealer, address: tuple[str, int]) -> None:
        opened = await connected(address, 2)
        workers.append(FakeWorker())
        await until(lambda: dealt(workers) == [2])
        for one in opened:
            one.close()

    play(workers, scene)


def test_a_client_beyond_its_limit_is_answered_503() -> None:
    workers = [FakeWorker(), FakeWorker()]

    async def scene(dealer: Dealer, address: tuple[str, int]) -> None:
        opened = await connected(address, 3)
        answer = await asyncio.to_thread(opened[2].recv, 12)
        assert answer == b"HTTP/1.1 503"

        dealer.closed("127.0.0.1")
        opened += await connected(address, 1)
        await until(lambda: sum(dealt(workers)) == 3)
        for one in opened:
            one.close()

    play(workers, scene, Connections(2))


def test_a_descriptor_arrives_with_its_number() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one, other = socket.socketpair()
    hand_over(ours, Kind.CONNECTION, 7, one.fileno())
    one.close()

    taken = take_over(theirs)

    assert taken is not None
    kind, number, descriptor = taken
    assert (kind, number) == (Kind.CONNECTION, 7)
    with socket.socket(fileno=descriptor) as copy:
        other.sendall(b"hello")
        assert copy.recv(5) == b"hello"
    ours.close()
    assert take_over(theirs) is None
    theirs.close()
    other.close()


def test_a_process_without_a_free_descriptor_learns_what_it_has_lost() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one, other = socket.socketpair()
    hand_over(ours, Kind.CONNECTION, 7, one.fileno())
    hand_over(ours, Kind.CONNECTION, 8, one.fileno())
    one.close()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with tempfile.TemporaryFile() as next_one:
        free = next_one.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        lost = take_over(theirs)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    taken = take_over(theirs)

    assert lost == (Kind.CONNECTION, 7, NONE_FREE)
    assert taken is not None
    assert taken[:2] == (Kind.CONNECTION, 8)
    socket.socket(fileno=taken[2]).close()
    for end in (ours, theirs, other):
        end.close()


def test_the_end_of_a_connection_is_reported_once() -> None:
    closed: list[int] = []
    later: list[tuple[Callable[..., object], str]] = []
    connections = DealtConnections(closed.append, lambda *call: later.append(call))

    def turn() -> None:
        for call, client in later:
            call(client)
        later.clear()

    connections.arrive("a", 1)
    connections.open("a")
    connections.close("a")  # after a TLS handshake
    connections.open("a")
    turn()
    assert closed == []

    connections.arrive("a", 2)
    connections.close("a")
    turn()
    assert len(closed) == 1
    connections.fail("a")
    assert sorted(closed) == [1, 2]
