"""A process that gets no core is not one that hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tidegate.service.fronts.silence import Silence


def write(proc: Path, waited_s: float, state: str = "S", ran_ns: int = 123) -> None:
    (proc / "7").mkdir(exist_ok=True)
    (proc / "7/schedstat").write_text(f"{ran_ns} {round(waited_s * 1e9)} 45\n")
    (proc / "7/stat").write_text(f"7 (a (name) of) {state} 1 7 7 0 -1\n")


def test_the_time_in_which_no_core_was_free_does_not_count(tmp_path: Path) -> None:
    silence = Silence(7, tmp_path)
    write(tmp_path, 100.0)
    assert silence.seconds(alive_at=10.0, now=10.25) == pytest.approx(0.25)
    assert silence.seconds(alive_at=10.0, now=11.0) == pytest.approx(1.0)
    write(tmp_path, 106.0)

    assert silence.seconds(alive_at=10.0, now=17.0) == pytest.approx(1.0)
    assert silence.seconds(alive_at=10.0, now=22.0) == pytest.approx(6.0)
    assert silence.seconds(alive_at=21.0, now=22.0) == pytest.approx(1.0)


def test_a_wait_that_has_not_ended_does_not_count_either(tmp_path: Path) -> None:
    """The kernel adds it to the time waited when the process runs again."""
    silence = Silence(7, tmp_path)
    write(tmp_path, 100.0, "R")
    assert silence.seconds(alive_at=10.0, now=11.0) == pytest.approx(1.0)
    assert silence.seconds(alive_at=10.0, now=19.0) == pytest.approx(1.0)
    write(tmp_path, 108.5, "R", ran_ns=456)
    assert silence.seconds(alive_at=10.0, now=20.0) == pytest.approx(1.5)
    write(tmp_path, 108.5, "R", ran_ns=789)  # it runs, and shows no life

    assert silence.seconds(alive_at=10.0, now=24.0) == pytest.approx(5.5)


def test_a_sleeping_process_does_not_wait(tmp_path: Path) -> None:
    silence = Silence(7, tmp_path)
    write(tmp_path, 100.0, "S")

    assert silence.seconds(alive_at=10.0, now=11.0) == pytest.approx(1.0)
    assert silence.seconds(alive_at=10.0, now=19.0) == pytest.approx(9.0)


@pytest.mark.parametrize("content", [None, "", "1", "1 x 2"])
def test_where_the_kernel_does_not_count_it_all_time_counts(
    content: str | None, tmp_path: Path
) -> None:
    silence = Silence(7, tmp_path)
    if content is not None:
        write(tmp_path, 0)
        (tmp_path / "7/schedstat").write_text(content)

    assert silence.seconds(alive_at=1.0, now=7.0) == pytest.approx(6.0)


@pytest.mark.process
def test_a_stopped_process_does_not_wait_for_a_core() -> None:
    sleeping = "import time; time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", sleeping]) as process:
        try:
            os.kill(process.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            silence = Silence(process.pid)

            assert silence.seconds(1.0, 2.0) == pytest.approx(1.0)
            assert silence.seconds(1.0, 7.0) == pytest.approx(6.0)
        finally:
            process.kill()
