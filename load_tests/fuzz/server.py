"""Starts the server under test quickly, on a free port."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from load_tests.client.requests import Target
from load_tests.fuzz import wire
from load_tests.fuzz.http_seeds import CLASSIFY
from load_tests.fuzz.seeds import good_image
from load_tests.server.start import free_port

SERVE = (sys.executable, "-m", "tidegate.service", "serve")
# Fixed settings skip the measurements at start, so that it takes only seconds.
QUICK = {
    "TIDEGATE_SLOTS": "2",
    "TIDEGATE_THREADS_PER_SLOT": "1",
    "TIDEGATE_MAX_BATCH_SIZE": "4",
    "TIDEGATE_DRAIN_DELAY_S": "0",
    "TIDEGATE_LOG_LEVEL": "warning",
}


@dataclass(frozen=True)
class Launch:
    """How to start a server, and its URL."""

    command: tuple[str, ...]
    env: dict[str, str]
    url: str

    @property
    def target(self) -> Target:
        """The URL for images."""
        return Target.parse(self.url)


def launch(
    bundle: Path,
    env: Mapping[str, str] | None = None,
    *,
    before: Sequence[str] = (),
    command: Sequence[str] = SERVE,
) -> Launch:
    """Return a quick start on a free port; `before` is a command that executes the server's."""
    port = free_port()
    ours = {"TIDEGATE_BUNDLE": str(bundle.resolve()), "TIDEGATE_PORT": str(port)}
    url = f"http://127.0.0.1:{port}/classify"
    return Launch((*before, *command), {**QUICK, **ours, **(env or {})}, url)


def good_request(*headers: bytes) -> bytes:
    """Return the request of the valid image."""
    return wire.request(CLASSIFY, good_image(), b"image/jpeg", headers)
