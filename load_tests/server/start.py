"""Start a server, wait until it answers an image, and stop all its processes by PID."""

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from load_tests.client.connection import Connection, MalformedResponse, Response
from load_tests.client.requests import Target
from load_tests.errors import MeasurementFailed
from load_tests.server.process_tree import alive, descendants, kill, resident_mb, resume

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
FRONT_ENDS = "TIDEGATE_FRONT_ENDS"
LINGER_S = 1.0  # for processes that the main process leaves behind
_POLL_S = 0.05
_LOG_LINES = 12


@dataclass(frozen=True)
class Started:
    """A server that answers. `pid` is the subreaper, whose descendants are the server."""

    pid: int
    main_pid: int  # the process that was started, which receives the signals
    url: str
    cold_start_s: float  # from the start of the process to the first image answered with 200
    log: Path

    def processes(self) -> list[int]:
        """Return every process of the server that still runs."""
        return alive(descendants(self.pid))

    def resident_mb(self) -> float:
        """Return the memory of all its processes, without the subreaper."""
        return resident_mb(self.processes())


@asynccontextmanager
async def running(
    command: Sequence[str],
    env: Mapping[str, str],
    url: str,
    ready: bytes,
    *,
    start_timeout_s: float = START_TIMEOUT_S,
) -> AsyncIterator[Started]:
    """Run `command` in a temporary folder, with `env` added to ours and `TIDEGATE_…` removed.

    `TIDEGATE_FRONT_ENDS` stays, so that every command can measure that shape.

    The repository is on its PYTHONPATH; the folder is deleted at the end.

    Yields once the HTTP request `ready` is answered 200. At the end it sends SIGTERM, waits
    STOP_TIMEOUT_S and, LINGER_S later, kills the remaining processes. Raises MeasurementFailed with
    the end of the log if the server exits or does not answer in time.
    """
    with tempfile.TemporaryDirectory(prefix="load-tests-") as folder:
        log = Path(folder) / "server.log"
        begun = time.monotonic()
        subreaper = await _start(command, env, log)
        try:
            try:
                main_pid = int((await _first_report(subreaper))["pid"])
                async with asyncio.timeout(start_timeout_s):
                    await _until_it_answers(Target.parse(url), ready, main_pid)
            except TimeoutError as error:
                late = f"{url} did not answer an image within {start_timeout_s:.0f} s"
                raise MeasurementFailed(f"{late}.\n{last_lines(log)}") from error
            except ProcessLookupError as error:
                raise MeasurementFailed(
                    f"{url}: the server exited early.\n{last_lines(log)}"
                ) from error
            yield Started(subreaper.pid, main_pid, url, time.monotonic() - begun, log)
        finally:
            await _end(subreaper)


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def last_lines(log: Path) -> str:
    """Return the end of a server's log, for an error message."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LOG_LINES:])


async def send_request(target: Target, request: bytes, timeout_s: float) -> Response | None:
    """Send one request on a new connection; None if no usable response arrives in time."""
    connection: Connection | None = None
    try:
        async with asyncio.timeout(timeout_s):
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(Connection, target.host, target.port)
            return await connection.exchange(request)
    except (OSError, MalformedResponse):  # TimeoutError is an OSError
        return None
    finally:
        if connection is not None:
            connection.close()


async def _start(
    command: Sequence[str], env: Mapping[str, str], log: Path
) -> asyncio.subprocess.Process:
    ours = {
        name: value
        for name, value in os.environ.items()
        if name == FRONT_ENDS or not name.startswith("TIDEGATE_")
    }
    subreaper = [sys.executable, "-m", "load_tests.server.subreaper", *command]
    with log.open("wb") as output:
        return await asyncio.create_subprocess_exec(
            *subreaper,
            cwd=log.parent,
            env={**ours, "PYTHONPATH": str(ROOT), **env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            start_new_session=True,  # so that a terminal's interrupt reaches only this process
        )


async def _first_report(subreaper: asyncio.subprocess.Process) -> dict[str, float]:
    assert subreaper.stdout is not None  # noqa: S101  # narrows for the type checker
    line = await subreaper.stdout.readline()
    if not line:
        raise ProcessLookupError
    facts: dict[str, float] = json.loads(line)
    return facts


async def _until_it_answers(target: Target, ready: bytes, main_pid: int) -> None:
    while True:
        response = await send_request(target, ready, START_TIMEOUT_S)
        if response is not None and response.status == 200:
            return
        if not alive([main_pid]):
            raise ProcessLookupError
        await asyncio.sleep(_POLL_S)


async def _end(subreaper: asyncio.subprocess.Process) -> None:
    """Send SIGTERM to the main process, SIGKILL to the others; the subreaper then exits."""
    resume(subreaper.pid)
    for pid in descendants(subreaper.pid)[:1]:
        with suppress(ProcessLookupError):  # it has just exited
            os.kill(pid, signal.SIGTERM)
        await _until_gone(pid, STOP_TIMEOUT_S)
    for pid in descendants(subreaper.pid)[:1]:
        await _until_gone(pid, LINGER_S)
    kill(subreaper.pid)
    await subreaper.wait()


async def _until_gone(pid: int, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    # The process is not our child, so there is no event to wait for.
    while alive([pid]) and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_S)
