"""Run commands and stop processes in tests."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def output(
    command: Sequence[str | Path], cwd: Path, env: Mapping[str, str], timeout_s: float
) -> str:
    """Run a command that must succeed, and return its standard output."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr or done.stdout
    return done.stdout


def stop(process: subprocess.Popen[str] | subprocess.Popen[bytes], patience_s: float) -> None:
    """Terminate a process, and kill it if it does not end."""
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
