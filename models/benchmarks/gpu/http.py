"""Measure the whole service with an engine over HTTP, using `load_tests`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[3]
_START_S = 900.0  # a plan may have to be built
_POLL_S = 0.5
_STOP_S = 60.0
_ANSWER_S = 20.0
_OVERHEAD_S = 120.0  # of a load test: imports, images and last answers
_CLIENTS = 64
_LIGHT = 0.8  # of capacity
_TAIL_BYTES = 1000  # of a process's output, for error messages


def measure(
    bundle: Path,
    name: str,
    engine: str,
    images: Path,
    settings: Mapping[str, str],
    seconds: float,
) -> Iterator[tuple[str, object]]:
    """Yield the engine that serves the model `name`, the capacity, and the latency at 80 % of it.

    At 80 %, arrivals are Poisson, and latency is measured from the scheduled send time. Raises
    RuntimeError with the end of the output if the service or a load test fails.
    """
    with _served(bundle, engine, settings) as url:
        with urllib.request.urlopen(f"{url}/models/{name}", timeout=_ANSWER_S) as answer:  # noqa: S310
            yield "engine", json.load(answer)["engine"]
        full = _load(url, images, seconds, "--closed", str(_CLIENTS))
        yield "closed_loop", full
        rate = f"{_LIGHT * float(full['throughput']):.1f}"
        light = _load(url, images, seconds, "--rate", rate, "--arrivals", "poisson")
        yield "at_80_percent", light


def _load(url: str, images: Path, seconds: float, *how: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="tidegate-load-") as folder:
        result = Path(folder, "result.json")
        command = [
            sys.executable,
            "-m",
            "load_tests",
            "run",
            "--url",
            f"{url}/classify",
            "--images",
            str(images),
            "--duration",
            str(seconds),
            "--warm-up",
            str(seconds / 4),
            "--json",
            str(result),
            *how,
        ]
        done = subprocess.run(  # noqa: S603 - our own load test
            command,
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=2 * seconds + _OVERHEAD_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(
                f"the load test ended with {done.returncode}: {_last_of(done.stdout)}"
            )
        report: dict[str, Any] = json.loads(result.read_text())["report"]
        return report


@contextmanager
def _served(bundle: Path, engine: str, settings: Mapping[str, str]) -> Iterator[str]:
    """Run the service on a free loopback port, and stop it afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")},
        **settings,
        "TIDEGATE_BUNDLE": str(bundle),
        "TIDEGATE_ENGINE": engine,
        "TIDEGATE_PORT": str(port),
        "TIDEGATE_DRAIN_DELAY_S": "0",
    }
    command = [sys.executable, "-m", "tidegate.service", "serve"]
    url = f"http://127.0.0.1:{port}"
    with (
        tempfile.NamedTemporaryFile(prefix="tidegate-log-") as log,
        subprocess.Popen(command, cwd=_ROOT, env=environment, stderr=log) as service,  # noqa: S603
    ):
        try:
            _wait(service, f"{url}/readyz", Path(log.name))
            yield url
        finally:
            service.terminate()
            try:
                service.wait(_STOP_S)
            except subprocess.TimeoutExpired:  # a device that does not answer
                service.kill()


def _wait(service: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if service.poll() is not None:
            printed = _last_of(log.read_bytes())
            raise RuntimeError(f"the service ended with {service.returncode}: {printed}")
        try:
            urllib.request.urlopen(url, timeout=_POLL_S).close()  # noqa: S310
        except (OSError, urllib.error.URLError):
            time.sleep(_POLL_S)  # a process does not announce that it listens
        else:
            return
    printed = _last_of(log.read_bytes())
    raise RuntimeError(f"the service was not ready in {_START_S:g} s: {printed}")


def _last_of(printed: bytes) -> str:
    return printed[-_TAIL_BYTES:].decode(errors="replace").strip()
