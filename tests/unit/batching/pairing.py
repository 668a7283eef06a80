"""A front end's `Remote` and the engine's `Peer` in one event loop, over a real socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.fakes import CLASSES, FEATURES, SIDE, FakeEngine
from tests.unit.batching.running import SEEDS, Stage, stage
from tests.unit.fronts.gone import Gone
from tidegate.service.batching.board import Board, BoardView
from tidegate.service.batching.decoders import Decoders
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.latency import LatencyModel
from tidegate.service.batching.link import Link
from tidegate.service.batching.peer import Peer
from tidegate.service.batching.placement import DecodePlacement
from tidegate.service.batching.policy import Limits
from tidegate.service.batching.remote import Destination, Remote
from tidegate.service.batching.ring import Layout, Ring, SlotViews
from tidegate.service.metrics import Metrics

LAYOUT = Layout(SIDE, SIDE, CLASSES, FEATURES, 2)
NUMBER = 3


@dataclass
class Pair:
    """Both sides. The stage's scheduler is the one of the engine."""

    remote: Remote
    lane: Lane  # the front end's
    peer: Peer
    engine: Stage
    metrics: Metrics  # the front end's
    notes: list[bytes]
    board: Board

    def publish(self) -> None:
        """Show the front end what waits."""
        self.board.publish(self.engine.scheduler.load(), {self.engine.lane: NUMBER})
        self.board.count_read(0, self.peer.images_read)


@asynccontextmanager
async def paired(
    engine: FakeEngine, slots: int = 64, max_queue: int = 10_000, **options: Any
) -> AsyncIterator[Pair]:
    async with stage(engine, own_decoders=False, **options) as on:
        clock, metrics = on.clock, Metrics("front")
        board, notes = Board(), list[bytes]()
        lane = Lane(engine, LatencyModel(SEEDS), Limits(engine.max_batch_size, max_queue))
        front, back = socket.socketpair()

        def note(_: Lane, views: SlotViews) -> None:
            notes.append(views.note.tobytes().rstrip(b"\0"))

        gone = Gone()
        front_link = Link(lambda records: remote.take(records), gone.after(lambda: remote.lost()))
        back_link = Link(lambda records: peer.take(records), gone.after(lambda: peer.lost()))
        remote = Remote(
            front_link.send,
            BoardView(os.dup(board.descriptor), 0, engine.slots, {lane: NUMBER}, lambda: 0),
            slots=engine.slots,
            placement=DecodePlacement(Decoders(2, on.wedged.put_nowait), None),
            metrics=metrics,
            clock=clock,
        )
        peer = Peer(
            on.scheduler,
            back_link.send,
            {NUMBER: (on.lane, LAYOUT)}.get,
            note,
            lambda number: None,
        )
        ring = Ring.create(slots, LAYOUT.size)
        peer.rings.append(ring)
        remote.add_ring(Ring(os.dup(ring.descriptor), slots, LAYOUT.size))
        remote.open_lane(lane, Destination(NUMBER, LAYOUT))
        await front_link.open(front)
        await back_link.open(back)
        try:
            yield Pair(remote, lane, peer, on, metrics, notes, board)
        finally:
            front_link.close()
            back_link.close()
            await gone.both()


async def settled() -> None:
    """Let both sides read what was written."""
    for _ in range(20):
        await asyncio.sleep(0)
