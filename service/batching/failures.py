"""Notice an engine that fails every batch, although no error says that its device is lost."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from tidegate.service.batching.isolate import DeviceFault, RowResult
from tidegate.service.engines.base import Engine
from tidegate.service.engines.warm_up import random_image

_IN_A_ROW = 5


class Failures:
    """Counts a slot's failed batches by engine. Used by the slot's thread."""

    def __init__(self) -> None:
        self._in_a_row: WeakKeyDictionary[Engine, int] = WeakKeyDictionary()

    def observe(
        self, engine: Engine, slot: int, rows: Sequence[RowResult], device_fault: DeviceFault
    ) -> None:
        """Count a batch; after several failures in a row, run the warm-up's image on the slot.

        If that fails too, the device is recorded as lost. A client's images alone cannot cause it.
        Batches that fail because the device lacks memory do not count.
        """
        if not all(isinstance(row, Exception) for row in rows):
            self._in_a_row.pop(engine, None)
            return
        if device_fault != DeviceFault():
            return
        failed = self._in_a_row.get(engine, 0) + 1
        if failed < _IN_A_ROW:
            self._in_a_row[engine] = failed
            return
        self._in_a_row.pop(engine, None)
        if reason := _broken(engine, slot):
            device_fault.lost = f"{failed} batches in a row failed, then the warm-up's: {reason}"


def _broken(engine: Engine, slot: int) -> str:
    """Return why the engine cannot run the image that it was warmed up with; empty if it can."""
    try:
        outputs = engine.run(slot, (random_image(engine),))
    except Exception as error:  # noqa: BLE001 - the runtimes' exceptions share no base class
        return str(error) or type(error).__name__
    return "" if all(outputs.all_finite()) else "it returned NaN or infinity"
