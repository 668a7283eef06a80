"""Finds, starts and stops the real programs of the tests."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "docker" / "prometheus"
PATIENCE_S = 150
_POLLED_S = 180
LISTENING = r'Listening on"? address=([0-9.:]+)'  # as Prometheus's programs log it


def tool(*names: str, folder: str = "alertmanager") -> Path:
    """Return the path of a program, by one of its names; skip the test if it is missing."""
    fetched = [ROOT / ".tools" / folder / "usr/bin" / name for name in names]
    found = [*filter(None, map(shutil.which, names)), *(str(p) for p in fetched if p.exists())]
    if not found:
        pytest.skip(f"{names[0]} is not installed: `make tools` fetches it")
    return Path(found[0]).absolute()


class Process:
    """A program that logs its address; tests wait for a line of its output."""

    def __init__(self, *command: str | Path, cwd: Path, listening: str) -> None:
        self._news, self._lines, self._closed = threading.Condition(), list[str](), False
        self._process = subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.url = "http://" + self.wait_for(listening)[1]

    def wait_for(self, pattern: str, times: int = 1) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            matches = [m for line in self._lines if (m := re.search(pattern, line))]
            return matches[times - 1] if len(matches) >= times else None

        with self._news:
            self._news.wait_for(lambda: found() or self._closed, PATIENCE_S)
            match = found()
        assert match, f"no {pattern!r} in {self._lines}"
        return match

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                with self._news:
                    self._lines.append(line)
                    self._news.notify_all()
        with self._news:
            self._closed = True
            self._news.notify_all()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_S)
        self._reader.join()

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        self._reader.join()


def wait_for(reached: Callable[[], object], what: str, patience_s: float = _POLLED_S) -> None:
    """Poll a state of another process, which sends no event."""
    pause, end = threading.Event(), time.monotonic() + patience_s
    while not reached():
        assert time.monotonic() < end, what
        pause.wait(0.3)


@contextmanager
def started(*command: str | Path, cwd: Path, listening: str) -> Iterator[Process]:
    process = Process(*command, cwd=cwd, listening=listening)
    try:
        yield process
    finally:
        process.end()


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def prometheus(
    folder: Path,
    *targets: str,
    alertmanager: str | None = None,
    for_s: int | None = None,
    options: Sequence[str] = (),
) -> Iterator[Process]:
    """Run Prometheus on a free port with the committed configuration and rules.

    It scrapes and evaluates every second; `for_s` replaces the `for` of every alert.
    """
    for path in (PROMETHEUS / "rules").glob("*.yml"):
        rules = yaml.safe_load(path.read_text("utf-8"))
        for group in rules["groups"]:
            group["interval"] = "1s"
            for rule in group["rules"]:
                if "alert" in rule and for_s is not None:
                    rule["for"] = f"{for_s}s"
        (folder / path.name).write_text(yaml.safe_dump(rules))
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = ["drift.yml", "service.yml"]
    config["scrape_configs"][0]["static_configs"] = [{"targets": list(targets)}]
    if alertmanager is None:
        del config["alerting"]
    else:
        config["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": [alertmanager]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with started(
        tool("prometheus", folder="prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'metrics'}",
        "--web.listen-address=127.0.0.1:0",
        *options,
        cwd=folder,
        listening=LISTENING,
    ) as process:
        yield process
