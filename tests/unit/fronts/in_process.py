"""A service with front ends in one process and one event loop: everything but the processes."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tidegate.service import lifecycle, logs, memory, security
from tidegate.service.addresses import listen, url_of
from tidegate.service.app import build
from tidegate.service.batching.link import Link
from tidegate.service.fronts.fleet import Fleet
from tidegate.service.fronts.front_end import FrontEnd
from tidegate.service.fronts.messages import Channel
from tidegate.service.fronts.shared import SharedTable
from tidegate.service.lifecycle import Service
from tidegate.service.metrics import Metrics
from tidegate.service.settings import Settings

PATIENCE_S = 150.0
_pids = itertools.count(1 << 30)  # no process has them


class FakeProcess:
    """Runs a front end on this event loop, in place of a process; or hangs before it does."""

    started: list[FakeProcess]
    next_hang = 0  # so many that are started next

    def __init__(self, command: Sequence[str], *, pass_fds: Sequence[int], stdin: int) -> None:
        self.pid = next(_pids)
        self._sockets = [socket.socket(fileno=os.dup(descriptor)) for descriptor in pass_fds[:3]]
        for one in self._sockets:
            one.setblocking(False)
        records, messages, turnover = self._sockets
        self.front = FrontEnd(turnover)
        self.hangs = FakeProcess.next_hang > 0
        FakeProcess.next_hang -= self.hangs
        run = asyncio.Event().wait() if self.hangs else self.front.run(records, messages)
        self._task: asyncio.Future[object] = asyncio.ensure_future(run)
        self.started.append(self)

    def kill(self) -> None:
        """End it as a crash does: its sockets are closed, and nothing is answered."""
        if self._task.done():
            return
        self._task.cancel()
        for task in self.front._tasks:
            task.cancel()
        if self.front._is_serving:  # otherwise it is the one that was started ahead
            for connection in list(self.front._server.server_state.connections):
                connection.transport.abort()
        asyncio.get_running_loop().remove_reader(self._sockets[2])
        for one in self._sockets if self.hangs else self._sockets[2:]:
            one.close()
        for end in (self.front._link, self.front._channel):
            assert isinstance(end, Link | Channel)
            if end._transport is not None:
                end._transport.abort()

    def lose_memories(self) -> None:
        """Let whatever is handed over to it fail from now on."""
        asyncio.get_running_loop().remove_reader(self._sockets[2])
        self._sockets[2].shutdown(socket.SHUT_RD)

    def wait(self, timeout: float | None = None) -> int:
        return 0

    def poll(self) -> int | None:
        return 0 if self._task.done() else None


class FakeLines:
    """The queue of log lines, which tests read otherwise."""

    def share(self) -> None: ...

    def report_drops_to(self, on_dropped: Callable[[int], object]) -> None:
        on_dropped(0)


@dataclass
class Fronted:
    """A running service."""

    root: Path
    service: Service
    fleet: Fleet
    metrics: Metrics
    client: httpx.AsyncClient

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def classify(self, image: bytes, **headers: str) -> httpx.Response:
        return await self.client.post(
            "/classify", content=image, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )


@asynccontextmanager
async def _served(root: Path, front_ends: int, **changes: Any) -> AsyncIterator[Fronted]:
    settings = Settings(
        models=root,
        slots=2,
        threads_per_slot=1,
        max_batch_size=2,
        max_queue=20,
        deadline_ms=60_000,
        engine="onnx-cpu",
        warm_up_cache=None,
        **changes,
    )
    metrics = Metrics("test")
    listeners = listen(["127.0.0.1"], 0)
    fleet = Fleet(
        settings, front_ends, listeners, None, metrics, SharedTable.create(front_ends + 1)
    )
    guard = security.build(settings, metrics, None, fleet.shared)
    app, service, wire = build(settings, None, metrics, None, None, guard, fleet.count_all)
    service.attach_front_ends(fleet.follow, fleet.load_files, lambda: fleet.unready_reason)
    url = url_of(listeners[0])
    await fleet.start(service, app, wire, guard)
    await service.start()
    async with httpx.AsyncClient(
        base_url=url, timeout=PATIENCE_S, limits=httpx.Limits(max_keepalive_connections=0)
    ) as client:
        await until(lambda: fleet.up == front_ends)
        yield Fronted(root, service, fleet, metrics, client)
    fleet.begin_drain()
    await fleet.stop(PATIENCE_S)
    assert await service.close(PATIENCE_S)


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - another task changes it
        await asyncio.sleep(0.001)


Run = Callable[[Callable[[Fronted], Awaitable[None]]], None]  # runs a scenario


@contextmanager
def running(root: Path, front_ends: int = 2, **changes: Any) -> Iterator[Run]:
    """Start a service of a folder of models with front ends; yield what runs a scenario on it."""

    def die(code: int) -> None:
        raise RuntimeError(f"a front end ends with {code}")

    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setattr(lifecycle, "start_decoder_pool", lambda *_: None)
        patch.setattr(subprocess, "Popen", FakeProcess)
        patch.setattr(FakeProcess, "started", [], raising=False)
        patch.setattr(FakeProcess, "next_hang", 0)
        patch.setattr(logs, "configure", lambda *_: FakeLines())
        patch.setattr(os, "_exit", die)
        patch.setattr(memory, "collect_rarely", lambda: None)
        served = _served(root, front_ends, **changes)
        on = runner.run(served.__aenter__())

        def run(scenario: Callable[[Fronted], Awaitable[None]]) -> None:
            async def bounded() -> None:
                async with asyncio.timeout(PATIENCE_S):
                    await scenario(on)

            runner.run(bounded())

        yield run
        runner.run(served.__aexit__(None, None, None))
