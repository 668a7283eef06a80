"""The whole service with an engine: started, loaded over HTTP by `load_tests`, and stopped."""

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

_ROOT = Path(__file__).parents[2]
_START_S = 900.0  # a plan may have to be built
_POLL_S = 0.5
_CLIENTS = 64
_SECONDS = 20.0
_LIGHT = 0.8  # of capacity


def measure(
    bundle: Path, name: str, engine: str, images: Path, settings: Mapping[str, str]
) -> dict[str, object]:
    """Return capacity over HTTP of the model `name`, and the tail at 80 % of it.

    Arrivals there are Poisson, and latency runs from when the schedule wanted them sent.
    """
    with _served(bundle, engine, settings) as url:
        with urllib.request.urlopen(f"{url}/models/{name}", timeout=_SECONDS) as answer:  # noqa: S310
            served = json.load(answer)["engine"]
        full = _load(url, images, "--closed", str(_CLIENTS))
        rate = _LIGHT * float(full["throughput"])
        light = _load(url, images, "--rate", f"{rate:.1f}", "--arrivals", "poisson")
    return {"engine": served, "closed_loop": full, "at_80_percent": light}


def _load(url: str, images: Path, *how: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="tidegate-load-") as folder:
        result = Path(folder, "result.json")
        command = [
            *(sys.executable, "-m", "load_tests", "run", "--url", f"{url}/classify"),
            *("--images", str(images), "--duration", str(_SECONDS), "--warm-up", "5"),
            *("--json", str(result), *how),
        ]
        subprocess.run(command, cwd=_ROOT, check=True, capture_output=True)  # noqa: S603
        report: dict[str, Any] = json.loads(result.read_text())["report"]
        return report


@contextmanager
def _served(bundle: Path, engine: str, settings: Mapping[str, str]) -> Iterator[str]:
    """Run the service on a free loopback port, and end it."""
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
    command = [sys.executable, "-m", "service", "serve"]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, cwd=_ROOT, env=environment) as service:  # noqa: S603
        try:
            _wait(service, f"{url}/readyz")
            yield url
        finally:
            service.terminate()


def _wait(service: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if service.poll() is not None:
            raise RuntimeError(f"the service ended with {service.returncode}")
        try:
            urllib.request.urlopen(url, timeout=_POLL_S).close()  # noqa: S310
        except (OSError, urllib.error.URLError):
            time.sleep(_POLL_S)
        else:
            return
    raise RuntimeError(f"the service was not ready in {_START_S:g} s")
