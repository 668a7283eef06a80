"""Server processes: start, readiness, pause and stop, including orphaned processes."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from load_tests.client.requests import Target
from load_tests.errors import MeasurementFailed
from load_tests.server.process_tree import alive, descendants, pause, resume
from load_tests.server.start import ROOT, Started, free_port, running, send_request

pytestmark = pytest.mark.process

TOY = Path(__file__).parents[1] / "toy_server.py"
PATIENCE_S = 150
GOOD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n\xff\xd9"


def _toy(*behaviours: str) -> tuple[list[str], str]:
    port = free_port()
    return [sys.executable, str(TOY), str(port), *behaviours], f"http://127.0.0.1:{port}/"


def test_a_server_is_yielded_once_it_answers_and_is_gone_afterwards() -> None:
    async def run() -> tuple[Started, list[int], int | None]:
        command, url = _toy()
        async with running(command, {}, url, GOOD) as server:
            return server, server.processes(), await _status(url, PATIENCE_S)

    server, processes, status = asyncio.run(run())

    assert status == 200
    assert processes == [server.main_pid]
    assert server.cold_start_s > 0
    assert alive([server.pid, *processes]) == []


def test_a_process_whose_parent_has_ended_is_still_the_server_s() -> None:
    async def run() -> tuple[list[int], float]:
        command, url = _toy("orphan")
        async with running(command, {}, url, GOOD) as server:
            return server.processes(), server.resident_mb()

    processes, resident_mb = asyncio.run(run())

    assert len(processes) == 2
    assert resident_mb > 2  # two interpreters
    assert alive(processes) == []


def test_a_server_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("load_tests.server.start.STOP_TIMEOUT_S", 0.2)

    async def run() -> list[int]:
        command, url = _toy("stubborn")
        async with running(command, {}, url, GOOD) as server:
            return server.processes()

    assert alive(asyncio.run(run())) == []


def test_a_paused_server_uses_no_cpu_and_answers_again_once_resumed() -> None:
    async def run() -> tuple[int | None, set[str], int | None]:
        command, url = _toy("orphan")
        async with running(command, {}, url, GOOD) as server:
            pause(server.pid)
            paused = await _status(url, 0.2)
            states = {_state(pid) for pid in descendants(server.pid)}
            resume(server.pid)
            return paused, states, await _status(url, PATIENCE_S)

    assert asyncio.run(run()) == (None, {"T"}, 200)


def test_a_paused_server_can_be_stopped() -> None:
    async def run() -> list[int]:
        command, url = _toy("orphan")
        async with running(command, {}, url, GOOD) as server:
            pause(server.pid)
            return descendants(server.pid)

    assert alive(asyncio.run(run())) == []


def test_a_server_that_exits_early_raises_with_the_end_of_its_log() -> None:
    async def run() -> None:
        command, url = _toy("fails")
        async with running(command, {}, url, GOOD):
            pytest.fail("it never answered")

    with pytest.raises(MeasurementFailed, match=r"exited early\.\nno such model"):
        asyncio.run(run())


def test_a_server_that_never_answers_raises_after_the_timeout() -> None:
    async def run() -> None:
        command, url = _toy()
        bad = GOOD.replace(b"\xff\xd9", b"no")
        async with running(command, {}, url, bad, start_timeout_s=0.5):
            pytest.fail("it never answered 200")

    with pytest.raises(MeasurementFailed, match="did not answer an image within"):
        asyncio.run(run())


def test_an_error_in_the_block_is_raised_unchanged() -> None:
    async def run() -> None:
        command, url = _toy()
        async with running(command, {}, url, GOOD):
            raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        asyncio.run(run())


def test_a_server_does_not_outlive_a_driver_that_is_killed() -> None:
    command, url = _toy("orphan")
    driver = f"""
import asyncio
from load_tests.server.start import running
async def main():
    async with running({command!r}, {{}}, {url!r}, {GOOD!r}) as server:
        print(*server.processes(), flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", driver], cwd=ROOT, stdout=-1) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        process.kill()
    assert len(pids) == 2

    deadline = time.monotonic() + PATIENCE_S
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.01)

    assert alive(pids) == []


def test_our_settings_do_not_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_PORT", "1")

    async def run() -> list[str]:
        command, url = _toy()
        async with running(command, {"GIVEN": "yes"}, url, GOOD) as server:
            return _proc(server.main_pid, "environ").split("\0")

    environment = asyncio.run(run())

    assert "GIVEN=yes" in environment
    assert not any(line.startswith("TIDEGATE_") for line in environment)


def test_a_process_without_children_has_no_living_descendants() -> None:
    assert alive([2**22 + 1]) == []  # beyond Linux's largest PID
    assert os.getpid() not in descendants(os.getpid())


async def _status(url: str, timeout_s: float) -> int | None:
    response = await send_request(Target.parse(url), GOOD, timeout_s)
    return None if response is None else response.status


def _state(pid: int) -> str:
    return _proc(pid, "stat").rpartition(")")[2].split()[0]


def _proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text("utf-8")
