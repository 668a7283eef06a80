"""Real decoder processes, and images that kill one."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from load_tests.fuzz.worst import worst
from load_tests.server.process_tree import resident_mb
from tests.server import PATIENCE_S, PHOTOS
from tests.unit.imaging.pictures import crop_fraction_then_resize, encode
from tidegate.service.errors import (
    ImageTooLarge,
    Overloaded,
    UndecodableImage,
    UnsupportedImageType,
)
from tidegate.service.imaging import decoder_pool
from tidegate.service.imaging.decoder_messages import receive
from tidegate.service.imaging.decoder_pool import DecoderPool
from tidegate.service.imaging.preprocess import preprocess

pytestmark = pytest.mark.process

SPEC = crop_fraction_then_resize(224)

MAX_PIXELS = 4_000_000


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    opened = DecoderPool(1, MAX_PIXELS)
    yield opened
    opened.close()


def pid_of(pool: DecoderPool) -> int:
    process = pool._idle.get(timeout=PATIENCE_S)
    assert process is not None
    pool._idle.put(process)
    return process._process.pid


def kill(pool: DecoderPool) -> int:
    """Kill an idle process and wait until it has ended; return its id."""
    pid = pid_of(pool)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def test_pixels_are_those_of_this_process(pool: DecoderPool) -> None:
    for photo in sorted(PHOTOS.iterdir()):
        data = photo.read_bytes()

        np.testing.assert_array_equal(
            pool.preprocess(data, SPEC), preprocess(data, SPEC, MAX_PIXELS)
        )


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"no image", UnsupportedImageType),
        (b"\xff\xd8\xff cut short", UndecodableImage),
        (encode(Image.new("RGB", (4001, 1000)), "PNG"), ImageTooLarge),
    ],
)
def test_a_rejection_equals_that_of_this_process(
    pool: DecoderPool, data: bytes, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as expected:
        preprocess(data, SPEC, MAX_PIXELS)

    with pytest.raises(kind) as refused:
        pool.preprocess(data, SPEC)

    assert str(refused.value) == str(expected.value)


def test_a_process_that_died_while_it_was_idle_costs_no_image(
    pool: DecoderPool, chelsea: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    first = kill(pool)

    assert pool.preprocess(chelsea, SPEC).size

    assert "signal 9" in caplog.text
    assert pid_of(pool) != first


def test_a_process_that_cannot_be_started_again_is_no_fault_of_the_image(
    pool: DecoderPool, chelsea: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill(pool)
    monkeypatch.setattr(decoder_pool, "sys", SimpleNamespace(executable="/bin/false"))

    for _ in range(2):
        with pytest.raises(Overloaded, match="No decoder process"):
            pool.preprocess(chelsea, SPEC)

    monkeypatch.undo()
    assert pool.preprocess(chelsea, SPEC).size


# A stopped process neither reads an image larger than the socket's buffer nor answers a small one.
@pytest.mark.parametrize("size", [100, 8 << 20])
def test_a_process_that_hangs_fails_one_image_and_is_replaced(
    pool: DecoderPool,
    chelsea: bytes,
    size: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    os.kill(pid_of(pool), signal.SIGSTOP)

    with monkeypatch.context() as short:
        short.setattr(decoder_pool, "_TIMEOUT_S", 0.2)
        with pytest.raises(UndecodableImage, match="decoder failed"):
            pool.preprocess(chelsea.ljust(size, b"\0"), SPEC)

    assert "signal 9 (timed out)" in caplog.text
    assert pool.preprocess(chelsea, SPEC).size


def test_an_answer_that_was_not_read_never_becomes_another_image_s(
    pool: DecoderPool, chelsea: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise MemoryError

    expected = preprocess(chelsea, SPEC, MAX_PIXELS)
    with monkeypatch.context() as short:
        short.setattr(decoder_pool, "receive", fail)
        with pytest.raises(MemoryError):
            pool.preprocess(encode(Image.new("RGB", (300, 300)), "PNG"), SPEC)

    np.testing.assert_array_equal(pool.preprocess(chelsea, SPEC), expected)


def test_if_one_process_cannot_be_started_the_others_end(monkeypatch: pytest.MonkeyPatch) -> None:
    popen, started = subprocess.Popen, list[subprocess.Popen[bytes]]()

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        if len(started) == 2:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)

    with pytest.raises(OSError, match="temporarily unavailable"):
        DecoderPool(3, MAX_PIXELS)

    assert None not in [process.returncode for process in started]


def test_a_failed_start_is_reported_with_its_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_pool, "sys", SimpleNamespace(executable="/bin/false"))

    with pytest.raises(OSError, match="exited at its start: exit status 1"):
        DecoderPool(2, MAX_PIXELS)


def test_a_message_that_stops_in_its_middle_is_not_waited_for_beyond_the_deadline() -> None:
    ours, its = socket.socketpair()
    with ours, its:
        its.sendall((100).to_bytes(8, "little") + b"half")

        with pytest.raises(TimeoutError):
            receive(ours, time.monotonic() + 0.05)


def test_a_signal_to_the_whole_group_leaves_it_to_the_service(
    pool: DecoderPool, chelsea: bytes
) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(pid_of(pool), number)

    assert pool.preprocess(chelsea, SPEC).size


def test_its_memory_is_bounded(pool: DecoderPool) -> None:
    limits = Path(f"/proc/{pid_of(pool)}/limits").read_text("ascii").splitlines()

    (data,) = (line.split() for line in limits if line.startswith("Max data size"))

    assert int(data[3]) < 24 * MAX_PIXELS + (512 << 20)


def test_it_gives_back_the_memory_of_a_large_image() -> None:
    small = encode(Image.new("RGB", (64, 64)), "PNG")
    pool = DecoderPool(1, 25_000_000)
    try:
        before: dict[str, float] = {}
        for image in (small, worst("gif"), small):  # the last one: after the answer
            pool.preprocess(image, SPEC)
            before.setdefault("mb", resident_mb([pid_of(pool)]))
        after_mb = resident_mb([pid_of(pool)])
    finally:
        pool.close()

    assert after_mb < before["mb"] + 16


def test_it_yields_to_the_service(pool: DecoderPool) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)

    assert os.getpriority(os.PRIO_PROCESS, pid_of(pool)) == min(19, own + 10)


def test_it_ends_with_the_service() -> None:
    pool = DecoderPool(1, MAX_PIXELS)
    process = pool._idle.get(timeout=PATIENCE_S)
    assert process is not None

    process.connection.close()  # as when the service has exited for any reason

    assert process._process.wait(PATIENCE_S) == 0
