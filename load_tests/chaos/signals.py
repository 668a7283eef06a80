"""Scenarios with signals: a pause, a drain under load, a kill."""

import asyncio
import json
import os
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from load_tests.chaos.setting import Outcome, Server, Setting, good_traffic, served
from load_tests.client.connection import Connection, MalformedResponse
from load_tests.fuzz.server import good_request

_PAUSES = 3
_CLIENTS = 8
_BEFORE_SIGNAL_S = 0.5
_EXIT_S = 15.0
_POLL_S = 0.05


async def paused(setting: Setting) -> Outcome:
    """Stop the process under load for three times the engine timeout."""
    async with served(setting, {"TIDEGATE_ENGINE_TIMEOUT_S": "1"}) as server:
        for _ in range(_PAUSES):
            traffic = asyncio.gather(*(_busy(server) for _ in range(_CLIENTS)))
            await asyncio.sleep(_BEFORE_SIGNAL_S)  # so that the stop interrupts a batch
            os.kill(server.pid, signal.SIGSTOP)
            await asyncio.sleep(3)
            os.kill(server.pid, signal.SIGCONT)
            await traffic
            if not server.alive():
                return Outcome("the process exited after SIGCONT", passed=False)
        status = await server.good()
    return Outcome(f"{_PAUSES} pauses of 3 s survived, then {status}", status == 200)


async def drains(setting: Setting) -> Outcome:
    """SIGTERM while keep-alive clients send; each request is answered or was never sent.

    A 503 is a valid answer only after the signal: the client then uses another server.
    """
    counts: Counter[str] = Counter()
    for _ in range(setting.drains):
        async with served(setting, {"TIDEGATE_DRAIN_DELAY_S": "0.5"}) as server:
            signalled = asyncio.Event()
            clients = [
                asyncio.create_task(_client(server, signalled, counts)) for _ in range(_CLIENTS)
            ]
            await asyncio.sleep(_BEFORE_SIGNAL_S)  # so that the signal arrives during the traffic
            signalled.set()
            os.kill(server.pid, signal.SIGTERM)
            await asyncio.gather(*clients)
            counts["left"] += not await gone(server)
    return drained(counts, setting.drains)


def drained(counts: Counter[str], drains: int) -> Outcome:
    """Return the outcome from the counts of requests and processes."""
    seen = ", ".join(f"{counts[what]} {what}" for what in ("lost", "answered", "refused"))
    seen += f" in {drains} drains"
    if counts["left"]:
        seen += f", {counts['left']} did not exit"
    return Outcome(seen, counts["answered"] > 0 and counts["lost"] == counts["left"] == 0)


def fate(status: int, *, signalled: bool) -> str:
    """Classify an answer; `signalled` is whether SIGTERM had been sent before."""
    if status == 200:
        return "answered"
    return "refused" if status == 503 and signalled else "lost"


async def killed(setting: Setting) -> Outcome:
    """SIGKILL, then start again with the drift state that an earlier drain saved."""
    with tempfile.TemporaryDirectory(prefix="load-tests-") as folder:
        env = {"TIDEGATE_DRIFT_STATE": str(Path(folder) / "drift.npz")}
        seen: list[int] = []
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
            async with served(setting, env) as server:
                await good_traffic(server, 20, 2.0)
                seen.append(await _images(server))
                os.kill(server.pid, number)
                await gone(server)
    passed = seen[1] > seen[0] > 0 and seen[2] > seen[0]
    return Outcome(f"images counted by /drift in three runs: {seen}", passed)


async def _busy(server: Server) -> None:
    """Keep the engine busy until after the signal."""
    end = time.monotonic() + 2 * _BEFORE_SIGNAL_S
    while time.monotonic() < end:
        await server.good()


async def gone(server: Server) -> bool:
    """Wait until the process exits; False if it does not exit in time."""
    end = time.monotonic() + _EXIT_S
    while server.alive() and time.monotonic() < end:  # noqa: ASYNC110 - not our child
        await asyncio.sleep(_POLL_S)
    return not server.alive()


async def _client(server: Server, signalled: asyncio.Event, counts: Counter[str]) -> None:
    """Send requests until the server accepts no more connections."""
    connection: Connection | None = None
    loop = asyncio.get_running_loop()
    while True:
        try:
            if connection is None or not connection.usable:
                address = (server.target.host, server.target.port)
                _, connection = await loop.create_connection(Connection, *address)
        except OSError:  # the server has stopped listening: a client would use another server
            return
        try:
            async with asyncio.timeout(_EXIT_S):
                response = await connection.exchange(good_request())
            counts[fate(response.status, signalled=signalled.is_set())] += 1
        except (OSError, MalformedResponse):
            counts["lost"] += 1
            connection.close()


async def _images(server: Server) -> int:
    """Return the drift monitor's number of images, from GET /drift; -1 without an answer."""
    answer = await server.get(b"/drift")
    return int(json.loads(answer.body)["images"]) if answer and answer.status == 200 else -1
