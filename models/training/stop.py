"""Ends a training between two steps, when the user or the system asks for it."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

from tidegate.models.progress import say

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The training was stopped, and everything is saved; the message says how to go on."""


class Stop:
    """Is set by Ctrl-C or SIGTERM while it is entered; a second signal acts at once.

    Enter it in the main thread, which signals interrupt.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._set) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.wanted = True
        say("Stopping after this step; once more stops at once.")
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
