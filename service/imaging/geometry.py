"""Which boxes to cut and which sizes to make, from a spec and an image's size. Pure arithmetic.

Known before a pixel is decoded, so that an image whose steps would grow beyond the pixel bound
(one pixel wide, a million high) is refused from its header.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from service.imaging.spec import (
    CentreCrop,
    CentreCropFraction,
    Filter,
    Offset,
    PreprocessSpec,
    Resize,
    ResizeShortestEdge,
    Step,
)

Size = tuple[int, int]  # (width, height), Pillow's order


@dataclass(frozen=True, slots=True)
class Cut:
    """Take `box` (left, upper, right, lower); what lies outside the image is black."""

    box: tuple[int, int, int, int]

    @property
    def size(self) -> Size:
        return self.box[2] - self.box[0], self.box[3] - self.box[1]


@dataclass(frozen=True, slots=True)
class Scale:
    """Resample to `size`."""

    size: Size
    filter: Filter


def plan(spec: PreprocessSpec, size: Size) -> tuple[Cut | Scale, ...]:
    """Return the concrete operations for an upright image of `size`."""
    return tuple(_operations(spec, size))


def _operations(spec: PreprocessSpec, size: Size) -> Iterator[Cut | Scale]:
    for step in spec.steps:
        operation = _operation(step, size)
        if operation.size != size or isinstance(operation, Cut):
            yield operation
        size = operation.size


def _operation(step: Step, size: Size) -> Cut | Scale:
    width, height = size
    match step:
        case Resize():
            return Scale((step.width, step.height), step.filter)
        case ResizeShortestEdge():
            return Scale(_shortest_edge(step, size), step.filter)
        case CentreCrop():
            return _centred(size, (step.width, step.height), step.offset)
        case CentreCropFraction():
            side = max(1, step.numerator * min(width, height) // step.denominator)
            return _centred(size, (side, side), step.offset)


def _shortest_edge(step: ResizeShortestEdge, size: Size) -> Size:
    short, long = min(size), max(size)
    if step.rounding == "truncate":
        scaled = int(step.size * long / short)
    else:
        scaled = round(step.size * long / short)
    return (step.size, scaled) if size[0] <= size[1] else (scaled, step.size)


def _centred(size: Size, crop: Size, offset: Offset) -> Cut:
    left, upper = _margin(size[0] - crop[0], offset), _margin(size[1] - crop[1], offset)
    return Cut((left, upper, left + crop[0], upper + crop[1]))


def _margin(excess: int, offset: Offset) -> int:
    if excess < 0:  # padding: the smaller share goes before, as torchvision pads
        return -(-excess // 2)
    if offset == "half-even":
        return round(excess / 2)
    return (excess + 1) // 2 if offset == "ceil" else excess // 2
