"""Starts a real server process for tests, on a free loopback port."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.processes import stop

ROOT = Path(__file__).parent.parent
DEMO_BUNDLE = ROOT / "models/bundles/efficientnet-lite0/1"
PHOTOS = ROOT / "models/probes/photos"
SERVE = (sys.executable, "-m", "tidegate.service", "serve")
PATIENCE_S = 400  # a generous limit: the machine may be busy
# Measuring the first three at warm-up takes seconds, and other tests cover it. On a busy machine an
# answer may take longer than the default deadline.
QUICK = {
    "slots": 2,
    "threads_per_slot": 1,
    "max_batch_size": 4,
    "drain_delay_s": 0,
    "deadline_ms": 60_000,
}


@dataclass
class Server:
    """A `tidegate serve` process and the lines that it has logged."""

    process: subprocess.Popen[str]
    lines: list[dict[str, Any]] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)
    closed: bool = False

    @property
    def url(self) -> str:
        line = self.wait_for("listening on")
        return str(line["message"]).removeprefix("listening on ")

    def wait_for(self, message: str, **fields: str) -> dict[str, Any]:
        """Wait for a line whose message starts with `message` and that has these fields.

        Fails if the process ends before.
        """

        def found() -> dict[str, Any] | None:
            lines = [line for line in self.lines if line["message"].startswith(message)]
            return next((line for line in lines if fields.items() <= line.items()), None)

        with self.news:
            self.news.wait_for(lambda: found() or self.closed, PATIENCE_S)
            line = found()
        assert line is not None, f"no {message!r} in {self.lines}"
        return line

    def follow(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for text in stream:
                with self.news:
                    self.lines.append(_parse(text))
                    self.news.notify_all()
        with self.news:
            self.closed = True
            self.news.notify_all()

    def messages(self) -> list[str]:
        return [str(line["message"]) for line in self.lines]


def _parse(text: str) -> dict[str, Any]:
    try:
        line: dict[str, Any] = json.loads(text)
    except ValueError:
        return {"message": text.rstrip()}
    return line


@contextmanager
def launched(
    bundle: Path | str = DEMO_BUNDLE,
    command: Sequence[str] = SERVE,
    **settings: object,
) -> Iterator[Server]:
    """Start a server with these settings, and stop it at the end."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGATE_")}
    kept: dict[str, object] = {"warm_up_cache": ROOT / "build/warm-up"}
    if front_ends := os.environ.get("TIDEGATE_FRONT_ENDS"):  # the same tests, in the other shape
        kept["front_ends"] = front_ends
    given = {**QUICK, **kept, "bundle": bundle, "port": 0, "log_format": "json", **settings}
    environment |= {f"TIDEGATE_{name.upper()}": str(value) for name, value in given.items()}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    server = Server(process)
    reader = threading.Thread(target=server.follow)
    reader.start()
    try:
        yield server
    finally:
        stop(process, PATIENCE_S)
        reader.join(PATIENCE_S)


@contextmanager
def running(bundle: Path | str = DEMO_BUNDLE, **settings: object) -> Iterator[Server]:
    """Start a server and wait until it is ready."""
    with launched(bundle, SERVE, **settings) as server:
        server.wait_for("ready")
        yield server
