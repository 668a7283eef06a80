"""Resize bit-identically to OpenCV's `resize` of uint8 on a CPU, without OpenCV.

Filters: `nearest`, `bilinear` (INTER_LINEAR) and `area` (INTER_AREA). INTER_CUBIC is not offered:
on Intel's processors OpenCV leaves it to a closed library, whose pixels differ from its own.

INTER_LINEAR has weights of 11 fractional bits, and drops 4 bits of the horizontal sums before the
vertical pass (OpenCV, modules/imgproc/src/resize.cpp). INTER_AREA averages the covered pixels in
float32, in a fixed order; if a side grows, it is INTER_LINEAR with other positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.service.imaging.geometry import Box, Size
from tidegate.service.imaging.spec import Filter

_ONE = 2048  # weight of a whole pixel
_MOST_VALUES = 1 << 20  # per array, for any shape of image
_MANY_TAPS = 256  # of an output, for which a loop would be slow
_LEAST_COVER = 1e-3  # of a source pixel, for INTER_AREA to read it


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis: `before` source pixels to `after`, of which `start` to `stop` are requested."""

    before: int
    after: int
    start: int
    stop: int

    @property
    def scale(self) -> float:
        """Source pixels per output, rounded as OpenCV does it."""
        return 1 / (self.after / self.before)

    @property
    def outputs(self) -> NDArray[np.int64]:
        """The requested outputs, [n]."""
        return np.arange(self.start, self.stop)

    def rows(self, most: int) -> Iterator[_Axis]:
        """Split the requested outputs into parts of at most `most`."""
        for start in range(self.start, self.stop, most):
            yield _Axis(self.before, self.after, start, min(start + most, self.stop))


@dataclass(frozen=True, slots=True)
class _Pairs:
    """For each output the two source pixels of INTER_LINEAR, and their weights, [n] each."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    weight: NDArray[np.int64]  # of the first, in 1/2048
    second_weight: NDArray[np.int64]


def resize(pixels: NDArray[np.uint8], size: Size, filter: Filter, window: Box) -> NDArray[np.uint8]:
    """Return `window` of `pixels` [H, W, 3] resized to `size` (width, height), as uint8.

    `filter` is nearest, bilinear or area.
    """
    left, upper, right, lower = window
    across = _Axis(pixels.shape[1], size[0], left, right)
    down = _Axis(pixels.shape[0], size[1], upper, lower)
    if filter == "nearest":
        return pixels[_nearest(down)[:, None], _nearest(across)]
    made = np.empty((lower - upper, right - left, 3), np.uint8)
    most = max(1, _MOST_VALUES // max(made[0].size, pixels[0].size))
    for part in down.rows(most):
        made[part.start - upper : part.stop - upper] = _rows(pixels, across, part, filter)
    return made


def _rows(
    pixels: NDArray[np.uint8], across: _Axis, down: _Axis, filter: Filter
) -> NDArray[np.uint8]:
    shrinks = across.scale >= 1 and down.scale >= 1
    factors = round(across.scale), round(down.scale)
    is_whole = across.before == factors[0] * across.after and down.before == factors[1] * down.after
    halves = shrinks and is_whole and factors == (2, 2)
    if filter == "bilinear" and not halves:
        return _linear(pixels, _between(across, clamps=True), _between(down, clamps=False))
    if not shrinks:
        return _linear(pixels, _towards(across, clamps=True), _towards(down, clamps=False))
    if is_whole:
        return _whole_area(pixels, across, down, factors)
    return _area(pixels, across, down)


def _nearest(axis: _Axis) -> NDArray[np.int64]:
    positions = np.floor(axis.outputs * axis.scale).astype(np.int64)
    return np.asarray(np.minimum(positions, axis.before - 1))


def _between(axis: _Axis, *, clamps: bool) -> _Pairs:
    """Return the pairs around each output's centre."""
    centres = ((axis.outputs + 0.5) * axis.scale - 0.5).astype(np.float32)
    whole = np.floor(centres)
    return _pairs(axis, whole.astype(np.int64), centres - whole, clamps)


def _towards(axis: _Axis, *, clamps: bool) -> _Pairs:
    """Return the pairs of INTER_AREA when it enlarges."""
    whole = np.floor(axis.outputs * axis.scale).astype(np.int64)
    share = (axis.outputs + 1) - (whole + 1) * (axis.after / axis.before)
    single = share.astype(np.float32)
    return _pairs(
        axis, whole, np.where(single <= 0, np.float32(0), single - np.floor(single)), clamps
    )


def _pairs(
    axis: _Axis, first: NDArray[np.int64], share: NDArray[np.float32], clamps: bool
) -> _Pairs:
    """Return pairs; at the image's edges a column has the weight of the edge alone."""
    last = axis.before - 1
    if clamps:
        outside = (first < 0) | (first >= last)
        share = np.where(outside, np.float32(0), share)
        first = np.clip(first, 0, last)
    weight = np.rint((np.float32(1) - share) * np.float32(_ONE)).astype(np.int64)
    second_weight = np.rint(share * np.float32(_ONE)).astype(np.int64)
    return _Pairs(np.clip(first, 0, last), np.clip(first + 1, 0, last), weight, second_weight)


def _linear(pixels: NDArray[np.uint8], across: _Pairs, down: _Pairs) -> NDArray[np.uint8]:
    def summed(rows: NDArray[np.int64]) -> NDArray[np.int32]:
        lines = pixels[rows]
        first = lines[:, across.first] * across.weight.astype(np.int32)[:, None]
        return first + lines[:, across.second] * across.second_weight.astype(np.int32)[:, None]

    upper = (down.weight.astype(np.int32)[:, None, None] * (summed(down.first) >> 4)) >> 16
    lower = (down.second_weight.astype(np.int32)[:, None, None] * (summed(down.second) >> 4)) >> 16
    return np.asarray((upper + lower + 2) >> 2, np.uint8)


def _whole_area(
    pixels: NDArray[np.uint8], across: _Axis, down: _Axis, factors: tuple[int, int]
) -> NDArray[np.uint8]:
    wide, high = factors
    part = pixels[down.start * high : down.stop * high, across.start * wide : across.stop * wide]
    shape = (down.stop - down.start, high, across.stop - across.start, wide, 3)
    sums = part.reshape(shape).sum(axis=1, dtype=np.int64).sum(axis=2)
    if factors == (2, 2):
        return np.asarray((sums + 2) >> 2, np.uint8)
    return np.asarray(np.rint(sums.astype(np.float32) * np.float32(1 / (wide * high))), np.uint8)


def _area(pixels: NDArray[np.uint8], across: _Axis, down: _Axis) -> NDArray[np.uint8]:
    rows, row_weights = _taps(down)
    columns, column_weights = _taps(across)
    taps, outputs = rows.shape
    sums = np.zeros((outputs, across.stop - across.start, 3), np.float32)
    most = max(1, _MOST_VALUES // (outputs * pixels[0].size))
    for start in range(0, taps, most):
        part = rows[start : start + most]
        lines = _line_sums(pixels[part.ravel()], columns, column_weights)
        lines = lines.reshape(*part.shape, -1, 3)
        lines *= row_weights[start : start + most, :, None, None]
        lines[0] += sums
        sums = np.add.accumulate(lines, axis=0)[-1]
    return np.asarray(np.rint(sums), np.uint8)


def _line_sums(
    lines: NDArray[np.uint8], columns: NDArray[np.int64], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the weighted sums of `columns` [taps, outputs] of each line, one tap after another."""
    if len(columns) > _MANY_TAPS:
        products = lines[:, columns] * weights[..., None]
        return np.asarray(np.add.accumulate(products, axis=1)[:, -1])
    sums = np.zeros((len(lines), columns.shape[1], 3), np.float32)
    for column, weight in zip(columns, weights, strict=True):
        sums += np.take(lines, column, axis=1) * weight[:, None]
    return sums


def _taps(axis: _Axis) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the source pixels that each output covers, in order, and their shares of its area.

    Both are [taps, outputs]; a pixel that an output does not cover has the share 0.
    """
    low = axis.outputs * axis.scale
    high = low + axis.scale
    cell = np.minimum(axis.scale, axis.before - low)
    last = np.minimum(np.floor(high), axis.before - 1)
    first = np.minimum(np.ceil(low), last)
    pixels = first - 1 + np.arange(math.ceil(axis.scale) + 2)[:, None]
    before, after = first - low, high - last
    covered = np.select(
        [pixels < first, pixels < last, pixels == last],
        [
            np.where(before > _LEAST_COVER, before, 0),
            np.ones_like(low),
            np.where(after > _LEAST_COVER, np.minimum(after, np.minimum(cell, 1)), 0),
        ],
        0,
    )
    found = np.clip(pixels, 0, axis.before - 1).astype(np.int64)
    return found, (covered / cell).astype(np.float32)
