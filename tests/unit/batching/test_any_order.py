"""Every ticket gets exactly one outcome, in any order of events.

A seed decides when clients arrive, wait, leave or are late, and which images break the engine.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pytest

from tests.fakes import FakeEngine, identity_in
from tests.unit.batching.running import Stage, on_stage, outcome
from tidegate.service.batching.tickets import Answer, Ticket
from tidegate.service.errors import DeadlineMissed, EngineFailed, ServiceError
from tidegate.service.types import Priority


@pytest.mark.parametrize("seed", range(20))
def test_every_admitted_ticket_gets_exactly_one_outcome(seed: int) -> None:
    rng = np.random.default_rng(seed)
    broken = set(rng.integers(0, 300, 15).tolist())
    engine = FakeEngine(
        held=True,
        slots=int(rng.integers(1, 4)),
        max_batch_size=int(rng.integers(1, 9)),
        breaking={i for i in broken if i % 2},
        blind={i for i in broken if i % 2 == 0},
    )

    async def play(on: Stage) -> None:
        crowd = Crowd(on, rng)
        for _ in range(400):
            await crowd.step()
        engine.release(10_000)
        await crowd.settle()

        runs = Counter(engine.seen)
        assert crowd.left_early.isdisjoint(runs)
        for identity, (ticket, result) in crowd.settled.items():
            assert ticket.answer.done()
            if isinstance(result, Answer):
                assert identity_in(result.outputs) == identity
                assert identity not in broken
                assert runs[identity] >= 1
            elif isinstance(result, EngineFailed):
                assert identity in broken
            elif isinstance(result, DeadlineMissed):
                assert identity not in runs
        assert crowd.settled.keys() == crowd.tickets.keys()
        assert on.scheduler.waiting == 0

    on_stage(play, engine)


class Crowd:
    """Random clients, with a record of all their tickets."""

    def __init__(self, on: Stage, rng: np.random.Generator) -> None:
        self.tickets: dict[int, Ticket] = {}
        self.settled: dict[int, tuple[Ticket, object]] = {}
        self.left_early: set[int] = set()  # before they were dispatched
        self._on = on
        self._rng = rng
        self._decoding: list[int] = []

    async def step(self) -> None:
        action = self._rng.integers(10)
        if action < 4:
            self._come()
        elif action < 7 and self._decoding:
            identity = self._decoding.pop(int(self._rng.integers(len(self._decoding))))
            self._on.submit(self.tickets[identity], identity)
        elif action == 7 and self.tickets:
            self._go()
        elif action == 8:
            self._on.clock.advance(float(self._rng.exponential(0.2)))
        else:
            self._on.engine.release()
            await asyncio.sleep(0)

    def _come(self) -> None:
        within_s = float(self._rng.uniform(0.0, 3.0))
        priority = Priority(int(self._rng.integers(2)))
        try:
            ticket = self._on.admit(within_s, priority)
        except ServiceError:
            return
        identity = len(self.tickets)
        self.tickets[identity] = ticket
        self._decoding.append(identity)

    def _go(self) -> None:
        identity = int(self._rng.integers(len(self.tickets)))
        ticket = self.tickets[identity]
        if identity in self._decoding:
            self._decoding.remove(identity)
        self._on.scheduler.leave(ticket)
        if not ticket.dispatched_at:  # known only now: a slot may take it at any moment
            self.left_early.add(identity)

    async def settle(self) -> None:
        for identity in self._decoding:
            self._on.scheduler.leave(self.tickets[identity])
        for identity, ticket in self.tickets.items():
            self.settled[identity] = ticket, await outcome(ticket.answer)
            self._on.scheduler.leave(ticket)
