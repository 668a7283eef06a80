"""Report an engine that does not finish a batch in time, not counting pauses of the process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from tidegate.service.batching.slots import Slot

_MAX_TICK_S = 1.0


class Watchdog:
    """Checks all slots on the event loop, at least eight times per timeout and once per second.

    If the gap between two checks is much longer than planned, the process was paused (SIGSTOP, a
    frozen container, a suspended machine). That time does not count against an engine.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        timeout_s: float,
        on_wedged: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the checks. `on_wedged` is called once, with the reason."""
        self._slots = slots
        self._timeout_s = timeout_s
        self._tick_s = min(_MAX_TICK_S, timeout_s / 8)
        self._on_wedged = on_wedged
        self._clock = clock
        self._checked_at = clock()
        self._batches: list[float | None] = [None] * len(slots)  # when each slot's batch started
        self._ran_s = [0.0] * len(slots)  # how long the process has run since then
        self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._check)

    def stop(self) -> None:
        """Stop the checks."""
        self._timer.cancel()

    def _check(self) -> None:
        now = self._clock()
        step_s, self._checked_at = min(now - self._checked_at, 2 * self._tick_s), now
        for index, slot in enumerate(self._slots):
            since = slot.engine_since
            same = since is not None and since == self._batches[index]
            self._batches[index] = since
            self._ran_s[index] = self._ran_s[index] + step_s if same else 0.0
            if self._ran_s[index] > self._timeout_s:
                self._on_wedged(
                    f"slot {slot.index} has not finished a batch in {self._timeout_s:g} s"
                )
                return
        self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._check)
