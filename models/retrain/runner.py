"""Run the configured command for one request after the other, and record its results.

A failed command is not repeated: the result is recorded, and a person decides. The bundle that a
command made is published if there is a folder of models (`publish.py`).
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from tidegate.models.retrain.errors import NotPublished, OptionRefused
from tidegate.models.retrain.folder import RequestFolder
from tidegate.models.retrain.publish import Publisher, Task

log = logging.getLogger(__name__)

_TAIL_BYTES = 8192
_MAX_WAITING = 64  # requests waiting while one command runs
_GRACE_S = 10.0  # between SIGTERM and SIGKILL


def words_of(command: str) -> list[str]:
    """Return the command as words. Raises OptionRefused if its program does not exist."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise OptionRefused(f"--run {command}: {error}.") from error
    if not words or shutil.which(words[0]) is None:
        raise OptionRefused(f"--run {command}: program not found.")
    return words


class Runner:
    """Owns one thread and, while it runs, one command; `start` and `close` once each."""

    def __init__(
        self,
        words: list[str],
        folder: RequestFolder,
        timeout_s: float,
        publisher: Publisher | None = None,
    ) -> None:
        self._words, self._folder, self._timeout_s = words, folder, timeout_s
        self._publisher = publisher
        self._waiting: queue.Queue[Path | None] = queue.Queue(_MAX_WAITING + 1)
        self._thread = threading.Thread(target=self._work, name="retrain-command")
        self._stop = threading.Event()
        self._lock: IO[str] | None = None
        self._process_lock = threading.Lock()  # so that an ended process is never signalled
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Raise OptionRefused if another receiver runs commands for this folder.

        Raises it also if bundles cannot be published.
        """
        self._lock = (self._folder.path / ".runner").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise OptionRefused(
                f"Another receiver with --run uses {self._folder.path}; only one may."
            ) from error
        if self._publisher:
            self._publisher.check()
        self._thread.start()

    def submit(self, request: Path) -> None:
        """Queue the command for this request."""
        if self._waiting.qsize() >= _MAX_WAITING:
            self._record(
                request, _result(self._words, "not-run", None, "too many requests were waiting")
            )
        else:
            self._waiting.put(request)

    def close(self) -> None:
        """End the running command and the thread."""
        self._stop.set()
        self._waiting.put(None)
        self._signal(signal.SIGTERM)
        self._thread.join(_GRACE_S)
        self._signal(signal.SIGKILL)
        self._thread.join()
        if self._lock:
            self._lock.close()

    def _work(self) -> None:
        while (request := self._waiting.get()) is not None:
            if self._stop.is_set():
                result = _result(self._words, "not-run", None, "the receiver was stopped")
            else:
                log.info("running the command for %s", request.name)
                result = self._make(request)
            log.info("%s: %s", request.name, result["outcome"])
            self._record(request, result)

    def _make(self, request: Path) -> dict[str, Any]:
        """Run the command, and publish what it made."""
        if self._publisher is None:
            return self._run(request, {})
        try:
            with self._publisher.task(request) as task:
                result = self._run(request, task.environment())
                if result["outcome"] == "done":
                    result |= self._publish(self._publisher, task)
        except (NotPublished, OSError) as error:
            return {**_result(self._words, "not-run", None, ""), "reason": str(error)}
        return result

    @staticmethod
    def _publish(publisher: Publisher, task: Task) -> dict[str, Any]:
        try:
            bundle = publisher.publish(task)
        except (NotPublished, OSError) as error:
            return {"outcome": "refused", "reason": str(error)}
        if bundle is None:
            return {}
        log.info("published %s", bundle.path)
        return {
            "bundle": {
                "name": bundle.manifest.name,
                "version": bundle.manifest.version,
                "digest": bundle.digest,
            }
        }

    def _run(self, request: Path, variables: Mapping[str, str]) -> dict[str, Any]:
        words = [*self._words, str(request.resolve())]
        started = datetime.now(UTC)
        try:
            process = subprocess.Popen(  # noqa: S603 - the operator's own command, without a shell
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that its children can be ended with it
                env={**os.environ, **variables},
            )
        except OSError as error:
            return _result(words, "not-run", None, str(error.strerror), started)
        with self._process_lock:
            self._process = process
        assert process.stdout is not None  # noqa: S101 - PIPE, above
        tail = _Tail(process.stdout)
        if self._stop.is_set():  # closed since the last check
            self._signal(signal.SIGTERM)
        outcome = self._wait(process)
        with self._process_lock:
            self._process = None
        return _result(words, outcome, process.returncode, tail.text(), started)

    def _wait(self, process: subprocess.Popen[bytes]) -> str:
        try:
            process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGTERM)
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                process.wait()
            return "timeout"
        if self._stop.is_set():
            return "stopped"
        return "failed" if process.returncode else "done"

    def _signal(self, number: signal.Signals) -> None:
        with self._process_lock:
            if self._process and self._process.poll() is None:
                os.killpg(self._process.pid, number)

    def _record(self, request: Path, result: dict[str, Any]) -> None:
        try:
            self._folder.record_result(request, result)
        except OSError as error:
            log.error("%s: cannot write the result: %s", request.name, error.strerror)  # noqa: TRY400 - an expected error needs no traceback


class _Tail:
    """Keeps the last bytes of a stream; a thread reads until the stream ends."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._kept = stream, b""
        # A daemon: a grandchild outside the session may keep the pipe open forever.
        self._thread = threading.Thread(target=self._read, daemon=True, name="retrain-output")
        self._thread.start()

    def _read(self) -> None:
        with self._stream:
            while chunk := os.read(self._stream.fileno(), 65_536):
                self._kept = (self._kept + chunk)[-_TAIL_BYTES:]

    def text(self) -> str:
        self._thread.join(1.0)
        return self._kept.decode(errors="replace")


def _result(
    words: list[str], outcome: str, status: int | None, tail: str, started: datetime | None = None
) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "outcome": outcome,
        "command": words,
        "exit_status": status,  # −n = ended by signal n
        "started_at": (started or now).isoformat(),
        "ended_at": now.isoformat(),
        "output_tail": tail,
        "bundle": None,  # that was published
        "reason": "",  # why it was not
    }
