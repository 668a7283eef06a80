"""A batch that fails is taken apart until the image that breaks it stands alone."""

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
    """What a batch that failed says of the device it ran on."""

    lost: str = ""  # why nothing will run there any more
    largest_batch: int | None = None  # images a batch may have, where memory is short


def run_isolating(
    run: Run,
    images: Sequence[Pixels],
    top_up: TopUp | None = None,
    device_fault: DeviceFault | None = None,
) -> list[RowResult]:
    """Run a batch; if it fails, halve it until the image that breaks it stands alone.

    Returns one result per image, in order, those of `top_up` last. Its neighbours are answered, at
    the cost of at most 2·log2(n) further runs per broken image. If the device has no memory, the
    halves are what fits; if it is lost, nothing is tried again. Either is noted in `device_fault`.
    """
    device_fault = device_fault or DeviceFault()
    batch = list(images)

    def extend(room: int) -> Sequence[Pixels]:
        added = top_up(room) if top_up is not None else ()
        batch.extend(added)
        return added

    try:
        outputs = run(images, extend if top_up is not None else None)
        return [_row(outputs, index) for index in range(len(batch))]
    except Exception as error:  # noqa: BLE001 - whatever the runtime raises must answer the batch
        fault = _diagnose(error, len(batch), device_fault)
        if len(batch) == 1 or fault is Fault.LOST:
            log.warning("engine failed on a batch of %d: %s", len(batch), error)
            return [without_frames(error)] * len(batch)
    return _run_halves(run, batch, device_fault)


def _diagnose(error: Exception, images: int, device_fault: DeviceFault) -> Fault:
    """Return what failed; note in `device_fault` what that says of the device."""
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
        # Once it is lost, the rest of a batch need not be tried to be known.
        lost = next((row for row in rows if device_fault.lost and isinstance(row, Exception)), None)
        rows += [lost] * len(part) if lost else run_isolating(run, part, None, device_fault)
    return rows


def _row(outputs: Outputs, index: int) -> RowResult:
    if outputs.finite(index):
        return outputs.rows(index, index + 1)
    return ArithmeticError("the engine returned NaN or infinity")
