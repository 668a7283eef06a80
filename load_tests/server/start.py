"""Start a server, wait until it answers an image, and end all of it by PID."""

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
LINGER_S = 1.0  # for what the main process leaves behind
_POLL_S = 0.05
_LOG_LINES = 12


@dataclass(frozen=True)
class Started:
    """A server that answers. `pid` is its shepherd: its descendants are the server."""

    pid: int
    main_pid: int  # the process that was started, which takes the signals
    url: str
    cold_start_s: float  # from the start of the process to the first image answered with 200
    log: Path

    def processes(self) -> list[int]:
        """Every process of the server that still runs."""
        return alive(descendants(self.pid))

    def resident_mb(self) -> float:
        """Memory of all its processes, the shepherd not counted."""
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
    """Run `command` in a scratch folder, with `env` added to ours and `TIDEGATE_…` taken out.

    The repository is on its PYTHONPATH; what it leaves in the folder goes with it.

    Yields once the HTTP request `ready` is answered 200; on the way out sends SIGTERM, waits
    STOP_TIMEOUT_S and kills what is left LINGER_S later. Raises MeasurementFailed, with the end of
    its log, when it ends or does not answer in time.
    """
    with tempfile.TemporaryDirectory(prefix="load-tests-") as folder:
        log = Path(folder) / "server.log"
        begun = time.monotonic()
        shepherd = await _start(command, env, log)
        try:
            try:
                main_pid = int((await _told(shepherd))["pid"])
                async with asyncio.timeout(start_timeout_s):
                    await _until_it_answers(Target.parse(url), ready, main_pid)
            except TimeoutError as error:
                late = f"{url} answered no image within {start_timeout_s:.0f} s"
                raise MeasurementFailed(f"{late}.\n{last_lines(log)}") from error
            except ProcessLookupError as error:
                raise MeasurementFailed(f"{url}: it ended early.\n{last_lines(log)}") from error
            yield Started(shepherd.pid, main_pid, url, time.monotonic() - begun, log)
        finally:
            await _end(shepherd)


def free_port() -> int:
    """A loopback port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def last_lines(log: Path) -> str:
    """The end of a server's log, for a message."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LOG_LINES:])


async def ask(target: Target, request: bytes, timeout_s: float) -> Response | None:
    """One request on a connection of its own; None when nothing usable came back in time."""
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
    ours = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGATE_")}
    shepherd = [sys.executable, "-m", "load_tests.server.subreaper", *command]
    with log.open("wb") as output:
        return await asyncio.create_subprocess_exec(
            *shepherd,
            cwd=log.parent,
            env={**ours, "PYTHONPATH": str(ROOT), **env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            start_new_session=True,  # an interrupt at the terminal is ours to pass on
        )


async def _told(shepherd: asyncio.subprocess.Process) -> dict[str, float]:
    assert shepherd.stdout is not None  # noqa: S101  # narrows for the type checker
    line = await shepherd.stdout.readline()
    if not line:
        raise ProcessLookupError
    facts: dict[str, float] = json.loads(line)
    return facts


async def _until_it_answers(target: Target, ready: bytes, main_pid: int) -> None:
    while True:
        response = await ask(target, ready, START_TIMEOUT_S)
        if response is not None and response.status == 200:
            return
        if not alive([main_pid]):
            raise ProcessLookupError
        await asyncio.sleep(_POLL_S)


async def _end(shepherd: asyncio.subprocess.Process) -> None:
    """SIGTERM to the main process, SIGKILL to what lives on, and the shepherd ends by itself."""
    resume(shepherd.pid)
    for pid in descendants(shepherd.pid)[:1]:
        with suppress(ProcessLookupError):  # it ended on its own just now
            os.kill(pid, signal.SIGTERM)
        await _until_gone(pid, STOP_TIMEOUT_S)
    for pid in descendants(shepherd.pid)[:1]:
        await _until_gone(pid, LINGER_S)
    kill(shepherd.pid)
    await shepherd.wait()


async def _until_gone(pid: int, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    # A process that is not our child, and on a kernel's word: there is nothing to be woken by.
    while alive([pid]) and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_S)
