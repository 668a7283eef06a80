"""Scenarios of host failures: logs, disks, descriptors, files, sandboxes, addresses."""

import asyncio
import io
import os
import signal
import struct
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from load_tests.chaos.hostile_client import opened
from load_tests.chaos.setting import ANSWER_S, Outcome, Server, Setting, good_traffic, served
from load_tests.chaos.signals import gone
from load_tests.client.connection import Connection
from load_tests.client.requests import Target
from load_tests.errors import MeasurementFailed
from load_tests.fuzz import wire
from load_tests.fuzz.http_seeds import CLASSIFY
from load_tests.server.start import send_request

_LOGGED = 1500  # requests; a pipe buffers the lines of a few hundred
_CONNECTIONS = 200
_ADDRESSES = 8  # so that the limit per address does not prevent using all descriptors
_AGAIN_S = 0.2
_WRITTEN_S = 5.0
_FULL = {
    "TIDEGATE_REVIEW_ACCEPTED_SHARE": "1",
    "TIDEGATE_REVIEW_IMAGES_PER_S": "1000",
}


async def stalled_log(setting: Setting) -> Outcome:
    """Stderr is a pipe that is not read: requests are answered, and SIGTERM ends the process."""
    return await _logging(setting, "stderr=stalled")


async def closed_log(setting: Setting) -> Outcome:
    """Stderr is closed from the start."""
    return await _logging(setting, "stderr=closed")


async def full_disk(setting: Setting) -> Outcome:
    """The disk of the review folder and of the drift state is full."""
    if os.geteuid():
        return Outcome("mounting a small file system needs root", passed=True, skipped=True)
    with tempfile.TemporaryDirectory(prefix="load-tests-") as folder:
        env = {
            **_FULL,
            "TIDEGATE_REVIEW_DIR": f"{folder}/review",
            "TIDEGATE_DRIFT_STATE": f"{folder}/drift.npz",
        }
        async with served(setting, env, [f"full-disk={folder}"]) as server:
            traffic = await good_traffic(server, 20, 5.0)
            parts = await _partial_files(Path(f"/proc/{server.pid}/root{folder}"))
            ready = await server.get(b"/readyz")
            os.kill(server.pid, signal.SIGTERM)
            ended = await gone(server)
    passed = traffic.goodput == 1 and ready is not None and ready.status == 200 and ended
    seen = f"{traffic}, {parts} partial files left, ready {ready and ready.status}"
    return Outcome(seen, passed and parts == 0)


async def descriptors(setting: Setting) -> Outcome:
    """More connections than descriptors; after they close, normal clients are served again."""
    async with served(setting, conditions=["nofile=80"]) as server:
        writers = []
        for number in range(_CONNECTIONS):
            address = f"127.0.0.{2 + number % _ADDRESSES}"
            try:
                writers.append((await asyncio.wait_for(opened(server.target, address), 1))[1])
            except OSError:
                break
        during = await server.good(2.0)
        for writer in writers:
            writer.transport.abort()
        # Connections in the backlog may be reset, including a normal client's: it retries.
        end = time.monotonic() + ANSWER_S
        while (after := await server.good()) != 200 and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(_AGAIN_S)
    return Outcome(f"with {len(writers)} open: {during}, after: {after}", after == 200)


async def connections(setting: Setting) -> Outcome:
    """One address opens as many connections as possible; normal clients are still served."""
    async with served(setting, conditions=["nofile=200"]) as server:
        writers = [(await opened(server.target))[1] for _ in range(_CONNECTIONS)]
        traffic = await good_traffic(server, 10, setting.seconds)
        for writer in writers:
            writer.transport.abort()
    return Outcome(f"with {len(writers)} tried: {traffic}", traffic.goodput == 1)


async def damaged_state(setting: Setting) -> Outcome:
    """Each damaged drift state is renamed, and the service starts."""
    failed = []
    damaged = list(damaged_states())
    for name, content in damaged:
        with tempfile.TemporaryDirectory(prefix="load-tests-") as folder:
            path = Path(folder) / "drift.npz"
            path.write_bytes(content)
            try:
                async with served(setting, {"TIDEGATE_DRIFT_STATE": str(path)}):
                    pass
            except MeasurementFailed:
                failed.append(name)
    seen = f"{len(damaged) - len(failed)} of {len(damaged)} start"
    return Outcome(f"{seen}; not: {', '.join(failed)}" if failed else seen, not failed)


async def blank_settings(setting: Setting) -> Outcome:
    """Blank paths, as from `${VAR:-}` in compose, count as unset: nothing is written."""
    env = {**_FULL, "TIDEGATE_DRIFT_STATE": "", "TIDEGATE_REVIEW_DIR": ""}
    async with served(setting, env) as server:
        await good_traffic(server, 20, 2.0)
        os.kill(server.pid, signal.SIGTERM)
        await gone(server)
        folder = server.started.log.parent
        strays = sorted(path.name for path in folder.iterdir() if path != server.started.log)
        errors = "not saved" in server.log() or "Traceback" in server.log()
    seen = (
        f"{len(strays)} files in the working folder, {'errors' if errors else 'no errors'} logged"
    )
    return Outcome(seen, not strays and not errors)


async def dual_stack(setting: Setting) -> Outcome:
    """`TIDEGATE_HOST=::` answers IPv4 and IPv6."""
    try:
        async with served(setting, {"TIDEGATE_HOST": "::"}, start_timeout_s=20) as server:
            six = await send_request(
                Target("::1", server.target.port, "/"), wire.get(b"/livez"), ANSWER_S
            )
    except MeasurementFailed:
        return Outcome("no answer over IPv4", passed=False)
    passed = six is not None and six.status == 200
    return Outcome(f"IPv4 200, IPv6 {six and six.status}", passed)


async def sandbox(setting: Setting) -> Outcome:
    """A sandbox denies sched_setaffinity and setpriority."""
    try:
        async with served(setting, conditions=["deny=sched_setaffinity,setpriority"]) as server:
            traffic = await good_traffic(server, 10, 2.0)
    except MeasurementFailed:
        return Outcome("no image was answered", passed=False)
    return Outcome(str(traffic), traffic.goodput == 1)


def damaged_states() -> Iterator[tuple[str, bytes]]:
    """Yield files that a crash, a bad disk or an attacker could leave instead of a drift state."""
    valid = _archive(_array("x"))
    yield "empty", b""
    yield "text", b"not an archive\n" * 100
    yield "truncated", valid[: len(valid) // 2]
    yield "python-literal", _archive(b"\x93NUMPY\x01\0\x10\0{'descr': ((((  \n")
    yield (
        "huge-shape",
        _archive(_header("{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000,)}")),
    )
    yield "object-array", _archive(_header("{'descr': '|O', 'fortran_order': False, 'shape': ()}"))
    yield "unknown-compression", _with_method(valid, 99)
    yield "encrypted", _with_flag(valid, 1)
    squeezed = bytearray(_archive(_array("x" * 1000), zipfile.ZIP_DEFLATED))
    at = squeezed.index(b"format.npy") + len("format.npy")
    squeezed[at : at + 30] = b"\xff" * 30
    yield "bad-deflate", bytes(squeezed)


async def _partial_files(folder: Path) -> int:
    """Return the number of partial files, after waiting for one that is still being written."""
    end = time.monotonic() + _WRITTEN_S
    while (parts := _parts(folder)) and time.monotonic() < end:  # noqa: ASYNC110 - of another process
        await asyncio.sleep(_AGAIN_S)
    return parts


def _parts(folder: Path) -> int:
    return len(list(folder.rglob("*.part")))


def _archive(member: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("format.npy", member)
    return file.getvalue()


def _array(text: str) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(text))
    return file.getvalue()


def _header(text: str) -> bytes:
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text) + 1) + text.encode("ascii") + b"\n"


def _with_method(archive: bytes, method: int) -> bytes:
    return _patched(archive, 8, 10, method)


def _with_flag(archive: bytes, flag: int) -> bytes:
    return _patched(archive, 6, 8, flag)


def _patched(archive: bytes, local: int, central: int, value: int) -> bytes:
    """Set a 16-bit number in the member's header and in the directory (APPNOTE 4.3)."""
    patched = bytearray(archive)
    struct.pack_into("<H", patched, local, value)
    struct.pack_into("<H", patched, patched.index(b"PK\x01\x02") + central, value)
    return bytes(patched)


async def _logging(setting: Setting, condition: str) -> Outcome:
    async with served(setting, {"TIDEGATE_LOG_LEVEL": "info"}, [condition]) as server:
        answered = await _many(server, _LOGGED)
        live = await server.get(b"/livez")
        os.kill(server.pid, signal.SIGTERM)
        ended = await gone(server)
    seen = f"{answered} of {_LOGGED} answered, live {live and live.status}"
    passed = answered == _LOGGED and live is not None and ended
    return Outcome(f"{seen}, {'exited' if ended else 'ignores SIGTERM'}", passed)


async def _many(server: Server, number: int) -> int:
    """Send cheap requests on one connection until one is not answered; return their number."""
    request = wire.request(CLASSIFY, b"not an image")
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, server.target.host, server.target.port)
    for answered in range(number):
        try:
            await asyncio.wait_for(connection.exchange(request), ANSWER_S)
        except OSError:
            return answered
    connection.close()
    return number
