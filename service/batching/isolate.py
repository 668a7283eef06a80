"""A batch that fails is taken apart until the image that breaks it stands alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tidegate.service.engines.base import More
from tidegate.service.engines.faults import Fault, fault_of
from tidegate.service.errors import without_frames
from tidegate.service.types import Outputs, Pixels

log = logging.getLogger(__name__)

RowResult = Outputs | Exception  # one image's outputs [1, …], or why there are none
Run = Callable[[Sequence[Pixels], More | None], Outputs]


@dataclass(slots=True)
class Trouble:
    """What a batch that failed says of the device it ran on."""

    lost: str = ""  # why nothing will run there any more
    fits: int | None = None  # images a batch may have, where memory is short


def run_isolating(
    run: Run, images: Sequence[Pixels], more: More | None = None, trouble: Trouble | None = None
) -> list[RowResult]:
    """Run a batch; if it fails, halve it until the image that breaks it stands alone.

    Returns one result per image, in order, those of `more` last. Its neighbours are answered, at
    the cost of at most 2·log2(n) further runs per broken image. Where the device has no memory, the
    halves are what fits; where it is lost, nothing is tried again. Either is put into `trouble`.
    """
    trouble = trouble or Trouble()
    batch = list(images)

    def fill_up(room: int) -> Sequence[Pixels]:
        added = more(room) if more is not None else ()
        batch.extend(added)
        return added

    try:
        outputs = run(images, fill_up if more is not None else None)
        return [_row(outputs, index) for index in range(len(batch))]
    except Exception as error:  # noqa: BLE001 - whatever the runtime raises must answer the batch
        fault = _diagnose(error, len(batch), trouble)
        if len(batch) == 1 or fault is Fault.LOST:
            log.warning("engine failed on a batch of %d: %s", len(batch), error)
            return [without_frames(error)] * len(batch)
    return _run_halves(run, batch, trouble)


def _diagnose(error: Exception, images: int, trouble: Trouble) -> Fault:
    """Return what failed; note in `trouble` what that says of the device."""
    fault = fault_of(error)
    if fault is Fault.LOST:
        trouble.lost = str(error)
    elif fault is Fault.MEMORY:
        trouble.fits = max(1, images // 2)
    return fault


def _run_halves(run: Run, batch: Sequence[Pixels], trouble: Trouble) -> list[RowResult]:
    rows: list[RowResult] = []
    half = len(batch) // 2
    for part in (batch[:half], batch[half:]):
        # Once it is lost, the rest of a batch need not be tried to be known.
        lost = next((row for row in rows if trouble.lost and isinstance(row, Exception)), None)
        rows += [lost] * len(part) if lost else run_isolating(run, part, None, trouble)
    return rows


def _row(outputs: Outputs, index: int) -> RowResult:
    if outputs.finite(index):
        return outputs.rows(index, index + 1)
    return ArithmeticError("the engine returned NaN or infinity")
