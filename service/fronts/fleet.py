"""All front ends: start them, replace those that end, and send them what is served.

The process of the engine owns the listeners, the models and their metrics; see `worker` for one
front end, and `dealer` for their connections.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from starlette.types import ASGIApp

from tidegate.service import security
from tidegate.service.api.wire import Wire
from tidegate.service.batching.board import Board
from tidegate.service.batching.scheduler import Scheduler
from tidegate.service.catalog import Catalog
from tidegate.service.fronts.child import reap, wait_for
from tidegate.service.fronts.dealer import Dealer
from tidegate.service.fronts.failures import TOO_MANY, WITHIN_S, Failures
from tidegate.service.fronts.liveness import Liveness
from tidegate.service.fronts.observations import Observations
from tidegate.service.fronts.published import Hello
from tidegate.service.fronts.publishing import Publishing
from tidegate.service.fronts.shared import SharedTable
from tidegate.service.fronts.shares import settings_of_each, share_of
from tidegate.service.fronts.started_ahead import StartedAhead
from tidegate.service.fronts.worker import Worker
from tidegate.service.lifecycle import Service
from tidegate.service.metrics import Metrics
from tidegate.service.settings import Settings

log = logging.getLogger(__name__)

_PUBLISH_S = 0.001  # between two publications of what waits, at most so often
_TICK_S = 0.05
_CHANGE_S = 0.25
_COUNT_TIMEOUT_S = 1.0
_SPARE_S = 1.0  # they end what is left at their own timeout


class Fleet:
    """The front ends of a service. Used on the event loop."""

    def __init__(
        self,
        settings: Settings,
        count: int,
        listeners: Sequence[socket.socket],
        admin_port: int | None,
        metrics: Metrics,
        shared: SharedTable,
    ) -> None:
        """`settings` are those of the whole service, `shared` is its table of quotas."""
        self.count = count
        self._settings = settings_of_each(settings, count)
        self._admin_port = admin_port
        self._metrics = metrics
        self.shared = shared
        self._listeners = listeners
        self._board = Board()
        self._workers: dict[int, Worker] = {}
        self._ahead = StartedAhead(self._board.descriptor, shared.descriptor)
        self._scheduler: Scheduler | None = None
        self._slots = 0
        self._catalog: Catalog | None = None
        self._failures = Failures()
        self._liveness = Liveness(shared.alive_at)
        self._draining = self._stopping = False
        self._questions, self._published_at = 0, 0.0
        self._publish_soon: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._service: Service
        self._guard: security.Security
        self._app: ASGIApp
        self._observed: Observations
        self._publishing: Publishing
        self._dealer: Dealer

    async def start(
        self, service: Service, app: ASGIApp, wire: Wire, guard: security.Security
    ) -> None:
        """Start all front ends; connections are accepted as soon as one of them is up."""
        self._service, self._app, self._guard = service, app, guard
        self._observed, self._publishing = Observations(service), Publishing(service)
        self._dealer = Dealer(self._listeners, wire, self._taking)
        self._metrics.follow_front_ends(lambda: self.up)
        for index in range(self.count):
            await self._start(index)
        self._begin(self._tick())

    def follow(self, scheduler: Scheduler, catalog: Catalog) -> None:
        """Let the front ends use the engine, and serve a catalog; called whenever it changes."""
        if self._scheduler is None:
            self._scheduler = scheduler
            running = scheduler.slots * catalog.model("").stable.lane.limits.max_batch_size
            self._slots = self._settings.max_queue + share_of(running, self.count, 1)
            self._metrics.follow_queue(lambda: scheduler.waiting + self.waiting)
        self._catalog = catalog
        for worker in self._workers.values():
            if worker.is_up:
                self._bring_up_to_date(worker)

    async def count_all(self) -> None:
        """Add up what the front ends have counted, for a scrape; one that is silent is left out."""
        self._questions += 1
        asked = [worker for worker in self._workers.values() if worker.is_up]
        for worker in asked:
            worker.ask_counts(self._questions)
        until = time.monotonic() + _COUNT_TIMEOUT_S
        while any(w.answered_count < self._questions and w.is_up for w in asked):
            if time.monotonic() > until:
                return
            await asyncio.sleep(0.001)

    @property
    def waiting(self) -> int:
        """Return how many images wait for a decoder of a front end, as they said last."""
        return sum(worker.waiting for worker in self._workers.values())

    @property
    def up(self) -> int:
        """Return how many front ends can be given connections."""
        return sum(worker.is_up for worker in self._workers.values())

    @property
    def unready_reason(self) -> str:
        """Return why the service should not receive traffic; "" if it should."""
        up = self.up
        if 2 * up >= self.count:
            return ""
        return f"Only {up} of {self.count} front ends run."

    def load_files(self) -> None:
        """Let the front ends load the files that this process has just loaded, or refused."""
        for worker in self._workers.values():
            if worker.is_up:
                worker.load_files()

    def begin_drain(self) -> None:
        """Let each response close its connection."""
        self._draining = True
        for worker in self._workers.values():
            if worker.is_up:
                worker.drain()

    async def stop(self, timeout_s: float) -> None:
        """Accept nothing more, and end the front ends once their requests are answered."""
        await self._dealer.close()
        self._stopping = True
        processes = self._ahead.end()
        for worker in self._workers.values():
            if worker.is_up:
                worker.stop()
            else:
                worker.kill()
        ends = [asyncio.ensure_future(worker.gone.wait()) for worker in self._workers.values()]
        if ends:
            await asyncio.wait(ends, timeout=timeout_s + _SPARE_S)
        processes += [one.process for one in self._workers.values()]
        await asyncio.to_thread(wait_for, processes)
        for worker in self._workers.values():
            worker.kill()

    # Called by the workers

    def on_up(self, worker: Worker) -> None:
        """Bring a front end up to date, and give it connections."""
        log.info("front end %d is up (pid %d)", worker.index, worker.process.pid)
        if self._draining:
            worker.drain()
        self._bring_up_to_date(worker)
        self._dealer.open()
        if self.up == self.count and not self._stopping:
            self._ahead.start()

    def on_closed(self, address: str) -> None:
        """Count a connection as closed."""
        self._dealer.closed(address)

    def on_records(self, worker: Worker) -> None:
        """Show what waits, at most once per `_PUBLISH_S`."""
        if worker.peer is not None:
            self._board.count_read(worker.index, worker.peer.images_read)
        if self._publish_soon is None:
            delay = max(0.0, self._published_at + _PUBLISH_S - time.monotonic())
            loop = asyncio.get_running_loop()
            self._publish_soon = loop.call_later(delay, self._publish)

    def on_lane_closed(self, worker: Worker, number: int) -> None:
        """Open the lane again if the catalog has it meanwhile."""
        if number in self._publishing.places.values():
            self._bring_up_to_date(worker)

    def on_lost(self, worker: Worker) -> None:
        """Take back what a front end had, and replace it unless it was asked to stop."""
        for address in worker.connections.values():
            self._dealer.closed(address)
        worker.connections.clear()
        self.shared.forget(worker.index)
        self._board.count_read(worker.index, 0)
        if not any(one.is_up for one in self._workers.values()):
            self._dealer.pause()
        self._begin(self._replace(worker))

    # Inside

    async def _start(self, index: int) -> None:
        hello = Hello(
            self._settings,
            index,
            self.count,
            self._admin_port,
            self._guard.loaded,
            self._board.descriptor,
            self.shared.descriptor,
        )
        child = self._ahead.take()
        self._liveness.show(index, time.monotonic())
        worker = Worker(child, hello, self, self._metrics, self._observed)
        self._workers[index] = worker
        await worker.open(self._app)

    async def _replace(self, worker: Worker) -> None:
        how = await asyncio.to_thread(reap, worker.process)
        fault = f"has ended ({how})"
        while await self._may_start(worker.index, fault):
            try:
                await self._start(worker.index)
            except OSError as error:
                fault = f"cannot be started ({error.strerror or error})"
            else:
                self._metrics.front_ends_replaced.inc()
                return

    async def _may_start(self, index: int, fault: str) -> bool:
        """Count a failure and pause; return False if the service ends, or is failed by this."""
        if not self._stopping:
            log.error("front end %d %s; another one is started", index, fault)
            now = time.monotonic()
            self._failures.add(now)
            if self._failures.are_too_many(now):
                self._service.fail(f"{TOO_MANY} front ends have ended within {WITHIN_S:g} s")
                return False
            await asyncio.sleep(self._failures.pause_s(now))
        return not self._stopping

    def _bring_up_to_date(self, worker: Worker) -> None:
        if self._scheduler is None or self._catalog is None:
            return
        if worker.peer is None:
            worker.open_engine(self._scheduler, self._slots)
        try:
            worker.publish(*self._publishing.catalog(self._catalog))
        except OSError as error:
            self._service.fail(f"no slots for front end {worker.index}: {error.strerror or error}")

    def _publish(self) -> None:
        self._publish_soon = None
        self._published_at = time.monotonic()
        if self._scheduler is not None:
            self._board.publish(self._scheduler.load(), self._publishing.places)

    async def _tick(self) -> None:
        """Publish what waits, send what has changed, and end front ends that hang."""
        changed_at = time.monotonic()
        while not self._stopping:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            self._publish()
            if now - changed_at >= _CHANGE_S:
                changed_at = now
                changes = self._publishing.changes()
                for worker in self._workers.values():
                    if worker.is_up:
                        worker.change(changes)
            self._liveness.end_hanging(self._workers.values(), now)
            self._ahead.renew()

    def _taking(self) -> list[Worker]:
        return self._liveness.taking(self._workers.values(), time.monotonic())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(self._end, task))

    def _end(self, task: asyncio.Task[None], _: object) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("the front ends are no longer looked after", exc_info=error)
            self._service.fail("the front ends are no longer looked after")
