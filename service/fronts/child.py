"""The process of a front end, and this side of its sockets. It waits for its first message."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from tidegate.service.fronts.silence import Silence

EXIT_OK, EXIT_LOST = 0, 70
LAST_S = 0.4  # to answer what is in progress when the process of the engine is gone
_MODULE = "tidegate.service.front"
_LAST_LINES_S = 1.5


class Child:
    """A process that has been started, and whose sockets nobody reads yet."""

    def __init__(self, *inherited: int) -> None:
        """Start it with these descriptors. Raises OSError if the system does not allow that."""
        pairs = [
            socket.socketpair(),
            socket.socketpair(),
            socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET),
        ]
        (self.records, _), (self.messages, _), (self.handover, _) = pairs
        theirs = [pair[1] for pair in pairs]
        for ours, _ in pairs:
            ours.setblocking(False)
        # -P: do not import from the working directory.
        command = [sys.executable, "-P", "-m", _MODULE, *(str(one.fileno()) for one in theirs)]
        descriptors = [*(one.fileno() for one in theirs), *inherited]
        try:
            self.process = subprocess.Popen(  # noqa: S603 - our own module
                command, pass_fds=descriptors, stdin=subprocess.DEVNULL
            )
        except OSError:
            self._close()
            raise
        finally:
            for one in theirs:
                one.close()
        self.started_at = time.monotonic()
        self.silence = Silence(self.process.pid)

    @property
    def waits(self) -> bool:
        """Return whether it has imported, and said so; for one that was not used."""
        with contextlib.suppress(OSError):
            return bool(self.messages.recv(1, socket.MSG_PEEK))
        return False

    @property
    def runs(self) -> bool:
        """Return whether the process has not ended."""
        return self.process.poll() is None

    def end(self) -> None:
        """End the process and close the sockets; for one that was not used."""
        with contextlib.suppress(OSError):
            self.process.kill()
        self._close()

    def _close(self) -> None:
        for one in (self.records, self.messages, self.handover):
            one.close()


def reap(process: subprocess.Popen[bytes]) -> str:
    """Wait for a process that was killed; return how it ended. Blocks."""
    status = process.wait()
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def wait_for(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Give processes that end the time to write their last log lines. Blocks."""
    until = time.monotonic() + _LAST_LINES_S
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
