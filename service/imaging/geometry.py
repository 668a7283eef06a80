"""Compute the crops and resizes of a spec for an image's size. Pure arithmetic.

The result is known before a pixel is decoded, so that an image whose steps would exceed the pixel
limit (one pixel wide, a million high) is rejected from its header.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from tidegate.service.imaging.spec import (
    Backend,
    CentreCrop,
    CentreCropFraction,
    Filter,
    Grey,
    Offset,
    Pad,
    PreprocessSpec,
    Resize,
    ResizeKeepRatio,
    ResizeShortestEdge,
    Step,
)

Size = tuple[int, int]  # (width, height), Pillow's order
Box = tuple[int, int, int, int]  # (left, upper, right, lower), Pillow's order


@dataclass(frozen=True, slots=True)
class Cut:
    """Crop to `box`; the part outside the image has the colour `outside`."""

    box: Box
    outside: tuple[int, int, int] = (0, 0, 0)

    @property
    def size(self) -> Size:
        return self.box[2] - self.box[0], self.box[3] - self.box[1]


@dataclass(frozen=True, slots=True)
class Scale:
    """Resize the box `source` of the image, or all of it, to `size`; compute only `window`."""

    size: Size
    filter: Filter
    backend: Backend = "pillow"
    source: Box | None = None
    window: Box | None = None


@dataclass(frozen=True, slots=True)
class Luminance:
    """Replace the channels of an image of `size` by its luminance."""

    size: Size
    backend: Literal["pillow", "cv2"]


Operation = Cut | Scale | Luminance


def plan(spec: PreprocessSpec, size: Size) -> tuple[Operation, ...]:
    """Return the concrete operations for an upright image of `size`.

    A crop before a resize becomes its source box, and a crop after it its window, so that no pixel
    is computed or copied only to be cut away. The result equals that of the separate steps.
    """
    planned: list[Operation] = []
    before = size  # input size of the last operation
    for operation in steps(spec, size):
        last = planned[-1] if planned else None
        if isinstance(operation, Scale) and isinstance(last, Cut) and _inside(last.box, before):
            planned[-1] = replace(operation, source=last.box)
        elif isinstance(operation, Cut) and isinstance(last, Scale) and last.window is None:
            planned[-1:] = _windowed(last, operation)
        else:
            planned.append(operation)
        before, size = size, operation.size
    return tuple(planned)


def _inside(box: Box, size: Size) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] and box[3] <= size[1]


def _windowed(scale: Scale, cut: Cut) -> list[Cut | Scale]:
    """Restrict a resize to the crop's box; keep a crop beyond the image, for its black padding."""
    if _inside(cut.box, scale.size):
        return [replace(scale, window=cut.box)]
    left, upper, right, lower = cut.box
    window = max(0, left), max(0, upper), min(scale.size[0], right), min(scale.size[1], lower)
    moved = left - window[0], upper - window[1], right - window[0], lower - window[1]
    return [replace(scale, window=window), replace(cut, box=moved)]


def steps(spec: PreprocessSpec, size: Size) -> Iterator[Operation]:
    """Yield the spec's steps as separate operations, without resizes to the same size."""
    for step in spec.steps:
        operation = _operation(step, size)
        if operation.size != size or not isinstance(operation, Scale):
            yield operation
        size = operation.size


def _operation(step: Step, size: Size) -> Operation:
    width, height = size
    match step:
        case Resize():
            return Scale((step.width, step.height), step.filter, step.backend)
        case ResizeShortestEdge():
            return Scale(_shortest_edge(step, size), step.filter, step.backend)
        case ResizeKeepRatio():
            return Scale(_keeping_ratio(step, size), step.filter, step.backend)
        case CentreCrop():
            return _centred(size, (step.width, step.height), step.offset)
        case Pad():
            cut = _centred(size, (step.width, step.height), step.offset)
            return replace(cut, outside=step.colour)
        case Grey():
            return Luminance(size, step.backend)
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


def _keeping_ratio(step: ResizeKeepRatio, size: Size) -> Size:
    """Compute in floats, in the order of the libraries' own code."""
    inside = step.fit == "inside"
    if step.factor == "product":
        factors = step.width / size[0], step.height / size[1]
        factor = min(factors) if inside else max(factors)
        sides = size[0] * factor, size[1] * factor
    else:
        ratios = size[0] / step.width, size[1] / step.height
        ratio = max(ratios) if inside else min(ratios)
        sides = size[0] / ratio, size[1] / ratio
    rounded = int if step.rounding == "truncate" else round
    return max(1, rounded(sides[0])), max(1, rounded(sides[1]))


def _centred(size: Size, crop: Size, offset: Offset) -> Cut:
    left, upper = _margin(size[0] - crop[0], offset), _margin(size[1] - crop[1], offset)
    return Cut((left, upper, left + crop[0], upper + crop[1]))


def _margin(excess: int, offset: Offset) -> int:
    if excess < 0:  # padding: the smaller half comes first, as in torchvision
        return -(-excess // 2)
    if offset == "half-even":
        return round(excess / 2)
    return (excess + 1) // 2 if offset == "ceil" else excess // 2
