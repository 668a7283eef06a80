"""The process started before a front end is needed, so that a replacement need not import."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import time

from tidegate.service.fronts.child import Child
from tidegate.service.fronts.liveness import START_S

log = logging.getLogger(__name__)


class StartedAhead:
    """At most one process, which waits to become a front end of any number."""

    def __init__(self, *inherited: int) -> None:
        """Processes are started with these descriptors."""
        self._inherited = inherited
        self._child: Child | None = None

    def start(self) -> None:
        """Start one unless there is one."""
        if self._child is None:
            with contextlib.suppress(OSError):  # one is started once it is needed
                self._child = Child(*self._inherited)

    def take(self) -> Child:
        """Return the one that was started ahead, or else a new one. Raises OSError."""
        child, self._child = self._child, None
        if child is not None and child.runs:
            return child
        if child is not None:
            child.end()
        return Child(*self._inherited)

    def renew(self) -> None:
        """End one that hangs before it can be used, and start another one."""
        child, now = self._child, time.monotonic()
        if child is None or now - child.started_at <= START_S or child.waits:
            return
        if child.silence.seconds(child.started_at, now) > START_S:
            log.warning("the process started ahead has not started within %g s", START_S)
            self.end()
            self._child = None
            self.start()

    def end(self) -> list[subprocess.Popen[bytes]]:
        """End it if there is one; return the process, which somebody must wait for."""
        if self._child is None:
            return []
        self._child.end()
        return [self._child.process]
