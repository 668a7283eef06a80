"""Reports an engine that does not finish a batch, in time during which the process ran."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from tidegate.service.batching.slots import Slot

_MAX_TICK_S = 1.0


class Watchdog:
    """Looks at every slot a few times per timeout, on the event loop.

    A gap between two looks that is much longer than planned is time in which the process did not
    run (SIGSTOP, a frozen container, a suspended machine), so it does not count against an engine.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        timeout_s: float,
        on_wedged: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start looking. `on_wedged` is called once, with the reason."""
        self._slots = slots
        self._timeout_s = timeout_s
        self._tick_s = min(_MAX_TICK_S, timeout_s / 8)
        self._on_wedged = on_wedged
        self._clock = clock
        self._looked_at = clock()
        self._batches: list[float | None] = [None] * len(slots)  # when each slot's batch began
        self._ran_s = [0.0] * len(slots)  # how long the process has run since, as far as seen
        self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._look)

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        now = self._clock()
        step_s, self._looked_at = min(now - self._looked_at, 2 * self._tick_s), now
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
        self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._look)
