"""A slot has one owner at a time, in any order of events: none is lost, none is used twice."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.fakes import CLASSES, FEATURES, SIDE, FakeEngine, identity_in, picture
from tests.unit.batching.running import SEEDS
from tidegate.service.batching.decode_times import DecodeCost
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.latency import LatencyModel
from tidegate.service.batching.peer import Peer
from tidegate.service.batching.placement import DecodePlacement
from tidegate.service.batching.policy import Limits
from tidegate.service.batching.records import Kind, Record
from tidegate.service.batching.remote import Destination, Remote
from tidegate.service.batching.ring import Layout, Ring
from tidegate.service.batching.scheduler import Scheduler
from tidegate.service.batching.tickets import Answer, Ticket
from tidegate.service.errors import DeadlineMissed, EngineFailed, Overloaded
from tidegate.service.metrics import Metrics
from tidegate.service.types import Outputs, Priority

pytestmark = pytest.mark.lengthy

SLOTS = 4
LAYOUT = Layout(SIDE, SIDE, CLASSES, FEATURES, 2)


class IdleElsewhere:
    """An engine that is never busy."""

    def free_in_s(self, now: float, *, typical: bool) -> list[float]:
        return [0.0]

    def ahead(self, lane: Lane, priority: Priority) -> int:
        return 0


class FakeScheduler:
    """Takes images, and finishes them when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Ticket] = []
        self.running: list[Ticket] = []
        self.held: Counter[Ticket] = Counter()

    def ticket(
        self,
        lane: Lane,
        deadline: float,
        priority: Priority,
        answer: Any,
        image: Any,
        **order: float,
    ) -> Ticket:
        return Ticket(
            priority,
            deadline,
            0,
            lane=lane,
            answer=answer,
            predicted_s=0.0,
            cost=DecodeCost(),
            client="",
            typical_decode_s=0.0,
            placement=cast(Any, None),
            image=image,
        )

    def take(self, tickets: list[Ticket]) -> None:
        self.held.update(tickets)
        self.waiting += tickets

    def leave(self, ticket: Ticket) -> bool:
        self.held.pop(ticket, None)
        if ticket in self.waiting:
            self.waiting.remove(ticket)
            return True
        return False


class SlotMachine(RuleBasedStateMachine):
    """Both sides with a queue of records in each direction."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.to_engine: deque[Record] = deque()
        self.to_front: deque[Record] = deque()
        self.ready: Counter[int] = Counter()
        self.done: Counter[int] = Counter()
        self.tickets: list[Ticket] = []
        self.answered: dict[Ticket, int] = {}
        self.crashed = False
        self.next_identity = 1
        self.engine = FakeScheduler()
        self.lane = Lane(FakeEngine(), LatencyModel(SEEDS), Limits(8, 10_000))
        self.peer = Peer(
            cast(Scheduler, self.engine),
            self.to_front.append,
            {0: (self.lane, LAYOUT)}.get,
            lambda lane, views: None,
            lambda number: None,
        )
        ring = Ring.create(SLOTS, LAYOUT.size)
        self.peer.rings.append(ring)
        self.remote = self.run(lambda: self.make_remote())
        self.remote.add_ring(ring)
        self.remote.open_lane(self.lane, Destination(0, LAYOUT))

    def make_remote(self) -> Remote:
        return Remote(
            self.to_engine.append,
            IdleElsewhere(),
            slots=1,
            placement=DecodePlacement(None, None),
            metrics=Metrics("front"),
        )

    def run(self, step: Callable[[], Any]) -> Any:
        """Run a step inside the event loop."""

        async def inside() -> Any:
            return step()

        return self.loop.run_until_complete(inside())

    def teardown(self) -> None:
        if not self.crashed:
            self.finish_everything()
            assert sum(map(len, self.remote._free)) == SLOTS
            assert self.peer.in_use == 0
            assert self.ready == self.done
        assert not self.engine.held
        self.peer.rings[0].close_descriptor()
        self.loop.close()

    def finish_everything(self) -> None:
        while self.to_engine or self.to_front or self.engine.waiting or self.tickets:
            self.engine_reads(99)
            while self.engine.waiting:
                self.engine_starts(99)
            while self.engine.running:
                self.engine_finishes(0, "answered")
            self.front_reads(99)
            while self.tickets:
                self.front_leaves(0)

    @rule()
    def front_admits(self) -> None:
        try:
            ticket = self.run(
                lambda: self.remote.admit(self.lane, 1e12, Priority.INTERACTIVE, DecodeCost(), "")
            )
        except Overloaded:
            assert not any(self.remote._free)
            return
        self.tickets.append(ticket)

    @precondition(lambda self: any(not ticket.ready_at for ticket in self.tickets))
    @rule(data=st.data())
    def front_sends(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from([one for one in self.tickets if not one.ready_at]))
        identity, self.next_identity = self.next_identity, self.next_identity + 1
        self.answered[ticket] = identity
        self.run(lambda: self.remote.submit(ticket, picture(identity)))
        self.ready[self.to_engine[-1].slot] += 1

    @precondition(lambda self: self.tickets)
    @rule(which=st.integers(0, 99))
    def front_leaves(self, which: int) -> None:
        ticket = self.tickets.pop(which % len(self.tickets))
        self.run(lambda: self.remote.leave(ticket))

    @rule(most=st.integers(1, 5))
    def front_reads(self, most: int) -> None:
        while self.to_front and most:
            record = self.to_front.popleft()
            assert record.kind == Kind.DONE
            self.done[record.slot] += 1
            self.run(partial(self.remote.take, [record]))
            most -= 1
        for ticket, identity in self.answered.items():
            answer = ticket.answer
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                assert identity_in(answer.result().outputs) == identity

    @precondition(lambda self: not self.crashed)
    @rule(most=st.integers(1, 5))
    def engine_reads(self, most: int) -> None:
        read = [self.to_engine.popleft() for _ in range(min(most, len(self.to_engine)))]
        self.run(partial(self.peer.take, read))

    @precondition(lambda self: self.engine.waiting)
    @rule(images=st.integers(1, 3))
    def engine_starts(self, images: int) -> None:
        self.engine.running += self.engine.waiting[:images]
        del self.engine.waiting[:images]

    @precondition(lambda self: self.engine.running)
    @rule(which=st.integers(0, 99), how=st.sampled_from(["answered", "late", "failed"]))
    def engine_finishes(self, which: int, how: str) -> None:
        ticket = self.engine.running.pop(which % len(self.engine.running))
        if ticket.answer.done():
            return
        if how == "answered":
            identity = int.from_bytes(np.asarray(ticket_pixels(ticket))[0, 0].tobytes(), "big")
            row = Outputs(
                np.zeros((1, CLASSES), np.float32),
                np.zeros((1, FEATURES), np.float32),
                np.zeros((1, 2), np.float32),
                np.array([identity]),
            )
            answer = Answer(row, 0.0, 0.0, 0.1, 1)
            self.run(lambda: ticket.answer.set_result(answer))
        else:
            error = DeadlineMissed("", "early-drop") if how == "late" else EngineFailed("")
            self.run(lambda: ticket.answer.set_exception(error))

    @precondition(lambda self: not self.crashed)
    @rule()
    def the_front_end_crashes(self) -> None:
        self.crashed = True
        self.to_engine.clear()
        self.run(self.peer.lost)
        assert not self.engine.waiting

    @invariant()
    def every_slot_has_one_owner(self) -> None:
        free = [slot for ring in self.remote._free for slot in ring]
        held = list(self.remote._slots.values())

        assert sorted([*free, *held, *self.remote._left]) == list(range(SLOTS))
        assert self.peer.in_use <= SLOTS

    @invariant()
    def a_lane_that_is_not_used_has_no_image_on_the_way(self) -> None:
        """Otherwise the other side could close it before it reads the image."""
        if not self.remote.uses(self.lane) and not self.crashed:
            assert all(record.kind != Kind.READY for record in self.to_engine)


def ticket_pixels(ticket: Ticket) -> Any:
    return ticket.image


TestSlotMachine = SlotMachine.TestCase
TestSlotMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
