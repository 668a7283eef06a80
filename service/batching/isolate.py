"""Run a batch; if it fails, halve it until the image that causes the failure is isolated."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tidegate.service.engines.base import TopUp
from tidegate.service.engines.faults import Fault, fault_of
from tidegate.service.errors import without_frames
from tidegate.service.types import Outputs, Pixels

log = logging.getLogger(__name__)

RowResult = Outputs | Exception  # one image's outputs [1, …], or why there are none
Run = Callable[[Sequence[Pixels], TopUp | None], Outputs]


@dataclass(slots=True)
class DeviceFault:
    """What a failed batch revealed about its device."""

    lost: str = ""  # why the device is unusable; empty if it is usable
    largest_batch: int | None = None  # the new limit if device memory is low


def run_isolating(
    run: Run,
    images: Sequence[Pixels],
    top_up: TopUp | None = None,
    device_fault: DeviceFault | None = None,
) -> list[RowResult]:
    """Run a batch; if it fails, halve it until the image that causes the failure is isolated.

    Returns one result per image: first those of `images`, then those from `top_up`. The other
    images of the batch get their outputs, at the cost of at most 2·log2(n) further runs per broken
    image. If the device lacks memory, halving finds a size that fits. If the device is lost,
    nothing is retried. Both faults are recorded in `device_fault`.
    """
    device_fault = device_fault or DeviceFault()
    batch = list(images)

    def extend(room: int) -> Sequence[Pixels]:
        added = top_up(room) if top_up is not None else ()
        batch.extend(added)
        return added

    try:
        outputs = run(images, extend if top_up is not None else None)
        return _rows(outputs, len(batch))
    except Exception as error:  # noqa: BLE001 - runtimes raise exceptions of any type
        fault = _diagnose(error, len(batch), device_fault)
        if len(batch) == 1 or fault is Fault.LOST:
            log.warning("engine failed on a batch of %d: %s", len(batch), error)
            return [without_frames(error)] * len(batch)
    return _run_halves(run, batch, device_fault)


def _diagnose(error: Exception, images: int, device_fault: DeviceFault) -> Fault:
    """Return the kind of fault; record a lost or full device in `device_fault`."""
    fault = fault_of(error)
    if fault is Fault.LOST:
        device_fault.lost = str(error)
    elif fault is Fault.MEMORY:
        device_fault.largest_batch = max(1, images // 2)
    return fault


def _run_halves(run: Run, batch: Sequence[Pixels], device_fault: DeviceFault) -> list[RowResult]:
    rows: list[RowResult] = []
    half = len(batch) // 2
    for part in (batch[:half], batch[half:]):
        # If the first half lost the device, the second half would fail as well.
        lost = next((row for row in rows if device_fault.lost and isinstance(row, Exception)), None)
        rows += [lost] * len(part) if lost else run_isolating(run, part, None, device_fault)
    return rows


def _rows(outputs: Outputs, images: int) -> list[RowResult]:
    finite = outputs.all_finite()
    return [
        outputs.rows(index, index + 1)
        if finite[index]
        else ArithmeticError("the engine returned NaN or infinity")
        for index in range(images)
    ]
