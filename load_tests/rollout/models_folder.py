"""A folder of versions of one model, its serving file, and a server of it."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load_tests.errors import MeasurementFailed
from load_tests.fuzz import wire
from load_tests.fuzz.server import SERVE
from load_tests.server.start import Started, free_port, running

READY = wire.get(b"/readyz")
_POLL_S = 0.1
_SERVING = "serving.toml"


@dataclass(frozen=True)
class ModelsFolder:
    """`folder` has the versions of `model`, and the file that says which are served."""

    folder: Path
    model: str

    def path(self, version: str) -> Path:
        """Return the folder of a version."""
        return self.folder / self.model / version

    def serve(self, stable: str, shadow: str = "", share: float = 0.0) -> bool:
        """Replace the serving file in one step; return whether it says something else now."""
        text = f'["{self.model}"]\nstable = "{stable}"\n'
        if shadow:
            text += f'shadow = {{ version = "{shadow}", share = {share} }}\n'
        serving, partial = self.folder / _SERVING, self.folder / f".{_SERVING}.part"
        before = serving.read_text(encoding="utf-8") if serving.exists() else ""
        partial.write_text(text, encoding="utf-8")
        partial.replace(serving)
        return text != before

    @asynccontextmanager
    async def served(
        self, env: Mapping[str, str] | None = None, before: Sequence[str] = ()
    ) -> AsyncIterator[Started]:
        """Run a server of this folder; `before` is a command that executes the server's.

        Raises MeasurementFailed if it does not answer in time.
        """
        port = free_port()
        ours = {"TIDEGATE_MODELS": str(self.folder), "TIDEGATE_PORT": str(port), **(env or {})}
        url = f"http://127.0.0.1:{port}/classify"
        async with running((*before, *SERVE), ours, url, READY) as started:
            yield started


class Log:
    """The messages that a server logs from now on. Each is read once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = path.stat().st_size
        self._messages: Iterator[str] = iter(())

    async def message(self, *beginnings: str, timeout_s: float) -> str:
        """Wait for a message that begins with one of these; earlier ones are skipped.

        Raises MeasurementFailed if it does not come in time.
        """
        end = time.monotonic() + timeout_s
        while True:
            for message in self._messages:
                if message.startswith(beginnings):
                    return message
            if time.monotonic() > end:
                raise MeasurementFailed(
                    f"the server did not log {' or '.join(map(repr, beginnings))} within "
                    f"{timeout_s:.0f} s"
                )
            await asyncio.sleep(_POLL_S)
            self._messages = messages(self._new_lines())

    def _new_lines(self) -> bytes:
        """Return the complete lines since the last call."""
        with self._path.open("rb") as log:
            log.seek(self._read)
            content = log.read()
        lines = content[: content.rfind(b"\n") + 1]
        self._read += len(lines)
        return lines


def messages(lines: bytes) -> Iterator[str]:
    """Yield the messages of JSON log lines, except those of requests."""
    for line in lines.splitlines():
        if b'"message":"request"' in line:
            continue
        try:
            fields: dict[str, Any] = json.loads(line)
        except ValueError:  # of a library, or a traceback
            continue
        yield str(fields.get("message", ""))


@dataclass(frozen=True)
class Resources:
    """Memory, threads and descriptors of one process; sockets depend on the clients."""

    resident_mb: float
    threads: int
    descriptors: int


def resources(pid: int) -> Resources:
    """Read those of a process. Raises ProcessLookupError if it is gone."""
    process = Path(f"/proc/{pid}")
    try:
        status = (process / "status").read_text(encoding="utf-8", errors="replace")
        links = [_target(link) for link in (process / "fd").iterdir()]
    except FileNotFoundError as error:
        raise ProcessLookupError(f"no process {pid}") from error
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return Resources(
        resident_mb=int(fields["VmRSS"].split()[0]) / 1024,
        threads=int(fields["Threads"]),
        descriptors=sum(bool(link) and not link.startswith("socket:") for link in links),
    )


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:  # closed in the meantime
        return ""
