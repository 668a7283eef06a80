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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[3]
_START_S = 900.0  # a plan may have to be built
_POLL_S = 0.5
_STOP_S = 60.0
_ANSWER_S = 20.0
_OVERHEAD_S = 120.0  # of a load test: imports, images and last answers
_CLIENTS = 64
_WORTH_IT = 1.05  # twice as many client processes must increase the throughput by this factor
_LIGHT = 0.8  # of capacity
_TAIL_BYTES = 1000  # of a process's output, for error messages
Figures = dict[str, Any]
_SUMS = ("requests", "answered", "throughput", "client_cores")
_QUANTILES = ("latency_ms", "generator_lag_ms")


def measure(
    bundle: Path,
    name: str,
    engine: str,
    images: Path,
    settings: Mapping[str, str],
    seconds: float,
) -> Iterator[tuple[str, object]]:
    """Yield the engine that serves the model `name`, the capacity, and the latency at 80 % of it.

    One client process is slower than a GPU, so their number is doubled until that gains nothing.
    At 80 %, arrivals are Poisson, and latency is measured from the scheduled send time. Raises
    RuntimeError with the end of the output if the service or a load test fails.
    """
    with _served(bundle, engine, settings) as url:
        with urllib.request.urlopen(f"{url}/models/{name}", timeout=_ANSWER_S) as answer:  # noqa: S310
            yield "engine", json.load(answer)["engine"]

        def closed(processes: int) -> Figures:
            clients = max(1, _CLIENTS // processes)
            return _load(url, images, seconds, processes, "--closed", str(clients))

        full = until_no_gain(closed, len(os.sched_getaffinity(0)))
        yield "closed_loop", full
        processes = int(full["processes"])
        rate = f"{_LIGHT * float(full['throughput']) / processes:.1f}"
        yield "at_80_percent", _load(url, images, seconds, processes, "--rate", rate)


def until_no_gain(measure: Callable[[int], Figures], most: int) -> Figures:
    """Double the client processes, up to `most`, while the throughput grows; return the best run.

    `client_is_the_limit` is true if it still grew at the end.
    """
    best = measure(1)
    processes, grew = 2, most < 2
    while processes <= most:
        figures = measure(processes)
        grew = figures["throughput"] >= _WORTH_IT * best["throughput"]
        best = max(best, figures, key=lambda run: float(run["throughput"]))
        if not grew:
            break
        processes *= 2
    return {**best, "client_is_the_limit": grew}


def together(reports: Sequence[Figures]) -> Figures:
    """Return the sums of the processes' rates and counts, and the worst of their quantiles."""
    return {
        "processes": len(reports),
        **{name: sum(report[name] for report in reports) for name in _SUMS},
        **{name: _worst([report[name] for report in reports]) for name in _QUANTILES},
        "statuses": dict(sum((Counter(report["statuses"]) for report in reports), Counter())),
        "each": list(reports),
    }


def _worst(quantiles: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = {name for each in quantiles for name in each}
    return {name: max(each.get(name, 0.0) for each in quantiles) for name in sorted(names)}


def _load(url: str, images: Path, seconds: float, processes: int, *how: str) -> Figures:
    """Run load tests at the same time, each in a process; `how` is the load of one."""
    with tempfile.TemporaryDirectory(prefix="tidegate-load-") as folder, ExitStack() as started:
        runs = []
        for number in range(processes):
            result = Path(folder, f"{number}.json")
            command = [
                *(sys.executable, "-m", "load_tests", "run", "--url", f"{url}/classify"),
                *("--images", str(images), "--seed", str(number)),
                *("--duration", str(seconds), "--warm-up", str(seconds / 4)),
                *("--json", str(result), *how),
            ]
            run = subprocess.Popen(  # noqa: S603 - our own load test
                command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            runs.append((started.enter_context(run), result))
            started.callback(run.kill)
        return together([_report_of(run, result, seconds) for run, result in runs])


def _report_of(run: subprocess.Popen[bytes], result: Path, seconds: float) -> Figures:
    printed, _ = run.communicate(timeout=2 * seconds + _OVERHEAD_S)
    if run.returncode:
        raise RuntimeError(f"the load test ended with {run.returncode}: {_last_of(printed)}")
    report: Figures = json.loads(result.read_text())["report"]
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
