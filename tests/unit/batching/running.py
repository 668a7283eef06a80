"""Run a real scheduler on a real event loop, with a fake engine and a fake clock."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.fakes import FakeClock, FakeEngine, picture
from tidegate.service.batching.decode_times import DecodeCost
from tidegate.service.batching.decoders import Decoders
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.latency import LatencyModel
from tidegate.service.batching.placement import DecodePlacement
from tidegate.service.batching.policy import Limits
from tidegate.service.batching.scheduler import Scheduler
from tidegate.service.batching.slots import Decode
from tidegate.service.batching.tickets import Answer, Ticket
from tidegate.service.errors import TidegateError
from tidegate.service.metrics import Metrics
from tidegate.service.types import Priority

PATIENCE_S = 150.0  # much longer than any test; reached only if something hangs
SINGLE_IMAGE_S = 0.004
FREE = DecodeCost()
SEEDS = {1: 0.010, 2: 0.010, 4: 0.010, 8: 0.010}


@dataclass
class Stage:
    """A scheduler with the fakes that drive it. Deadlines are relative to the fake clock."""

    scheduler: Scheduler
    lane: Lane
    engine: FakeEngine
    clock: FakeClock
    metrics: Metrics
    wedged: asyncio.Queue[str]

    def admit(
        self,
        within_s: float = 60.0,
        priority: Priority = Priority.INTERACTIVE,
        cost: DecodeCost = FREE,
        client: str = "",
        lane: Lane | None = None,
    ) -> Ticket:
        deadline = self.clock() + within_s
        return self.scheduler.admit(lane or self.lane, deadline, priority, cost, client)

    def submit(self, ticket: Ticket, identity: int) -> asyncio.Future[Answer]:
        return self.scheduler.submit(ticket, picture(identity))

    def send(
        self, identity: int, within_s: float = 60.0, priority: Priority = Priority.INTERACTIVE
    ) -> tuple[Ticket, asyncio.Future[Answer]]:
        """Admit and submit one image."""
        ticket = self.admit(within_s, priority)
        return ticket, self.submit(ticket, identity)

    def run(self, ticket: Ticket, decode: Decode) -> asyncio.Future[Answer]:
        return self.scheduler.run(ticket, decode)

    async def started(self, batches: int) -> None:
        """Wait until the engine has begun this many batches."""
        await asyncio.to_thread(self.engine.wait_for, batches)

    def shed(self, reason: str) -> float:
        return self.value("tidegate_shed_total", reason=reason)

    def value(self, name: str, **labels: str) -> float:
        """Return a metric's value as Prometheus would scrape it; 0 if it has none."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def on_stage(
    play: Callable[[Stage], Coroutine[Any, Any, None]],
    engine: FakeEngine | None = None,
    **options: Any,
) -> None:
    """Run a test's coroutine with a scheduler, and stop all threads afterwards."""

    async def main() -> None:
        async with stage(engine or FakeEngine(), **options) as ready:
            async with asyncio.timeout(PATIENCE_S):
                await play(ready)

    asyncio.run(main())


@asynccontextmanager
async def stage(
    engine: FakeEngine,
    *,
    max_batch_size: int | None = None,
    max_queue: int = 10_000,
    engine_timeout_s: float = PATIENCE_S,
    side_by_side: int = 1,
    own_decoders: bool = True,
    all_cores_engine: FakeEngine | None = None,
    large_decoders: int | None = None,
    default_deadline_s: float = math.inf,
) -> AsyncIterator[Stage]:
    clock, metrics, wedged = FakeClock(), Metrics("test"), asyncio.Queue[str]()
    loop = asyncio.get_running_loop()

    def deaths(reason: str) -> None:
        loop.call_soon_threadsafe(wedged.put_nowait, reason)

    lane = Lane(
        engine,
        LatencyModel(SEEDS, None if all_cores_engine is None else SINGLE_IMAGE_S),
        Limits(
            max_batch_size or engine.max_batch_size, max_queue, side_by_side, default_deadline_s
        ),
        all_cores_engine,
    )
    scheduler = Scheduler(
        lane,
        placement=DecodePlacement(
            Decoders(2, deaths) if own_decoders else None,
            Decoders(large_decoders, deaths) if large_decoders else None,
        ),
        engine_timeout_s=engine_timeout_s,
        metrics=metrics,
        on_failure=wedged.put_nowait,
        clock=clock,
    )
    try:
        yield Stage(scheduler, lane, engine, clock, metrics, wedged)
    finally:
        engine.release(10_000)
        if all_cores_engine is not None:
            all_cores_engine.release(10_000)
        assert await asyncio.to_thread(scheduler.close, PATIENCE_S)


async def outcome(answer: Awaitable[Answer]) -> Answer | TidegateError | asyncio.CancelledError:
    """Return the answer, or the error instead of raising it."""
    try:
        return await answer
    except (TidegateError, asyncio.CancelledError) as error:
        return error
