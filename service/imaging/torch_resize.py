"""Resize bit-identically to torchvision's tensor transforms on a CPU (uint8, antialiased).

Does not need torch. Two passes, horizontal and then vertical, with uint8 between them. Weights are
float64, normalised, then rounded to 16-bit integers with as many fractional bits as the largest
weight of a pass allows (PyTorch, ATen/native/cpu/UpSampleKernel.cpp). Every product and sum is an
integer that floats represent exactly, so matrix products over blocks of weights give the same bits
in any order of summation. A pixel depends only on its own taps, so a window can be computed by
itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.service.imaging.geometry import Box, Size
from tidegate.service.imaging.spec import Filter

_MOST_FRACTION_BITS = 22
_WEIGHT_LIMIT = 1 << 15  # of a signed 16-bit weight
_FLOAT32_INTEGERS = 1 << 24  # float32 represents every integer up to this one
# Outputs per block: more waste products with zeros, fewer make the BLAS calls too small.
_BLOCK = 16
_MOST_VALUES = 1 << 20  # floats per array, for any shape of image
_SUPPORT: dict[Filter, float] = {"bilinear": 1.0, "bicubic": 2.0}


@dataclass(frozen=True, slots=True)
class _Axis:
    """One pass: `before` source pixels to `after`, of which `start` to `stop` are requested."""

    before: int
    after: int
    start: int
    stop: int
    filter: Filter

    @property
    def is_needed(self) -> bool:
        return self.before != self.after

    @property
    def scale(self) -> float:
        """Source pixels per output."""
        return self.before / self.after

    @property
    def support(self) -> float:
        """Radius of the kernel in source pixels; larger if the image is shrunk."""
        return _SUPPORT[self.filter] * max(self.scale, 1.0)


@dataclass(frozen=True, slots=True)
class _Band:
    """Weights [outputs, source] of outputs `start` to `stop` over source `low` to `high`."""

    start: int
    stop: int
    low: int
    high: int
    weights: NDArray[np.floating]


def resize(pixels: NDArray[np.uint8], size: Size, filter: Filter, window: Box) -> NDArray[np.uint8]:
    """Return `window` of `pixels` [H, W, 3] resized to `size` (width, height), as uint8.

    `filter` is bilinear or bicubic.
    """
    left, upper, right, lower = window
    across = _Axis(pixels.shape[1], size[0], left, right, filter)
    down = _Axis(pixels.shape[0], size[1], upper, lower, filter)
    first, last = _source(down)
    planes = _across(pixels[first:last], across)
    return np.ascontiguousarray(_down(planes, first, down).transpose(1, 2, 0))


def _source(axis: _Axis) -> tuple[int, int]:
    """Return the first source pixel of the requested outputs, and the one after the last."""
    if not axis.is_needed:
        return axis.start, axis.stop
    _, low, high = _reach(axis, np.array([axis.start, axis.stop - 1]))
    return int(low[0]), int(high[1])


def _across(pixels: NDArray[np.uint8], axis: _Axis) -> NDArray[np.uint8]:
    """Resize the rows of [H, W, 3] to planes [3, H, outputs]."""
    if not axis.is_needed:
        return pixels[:, axis.start : axis.stop].transpose(2, 0, 1)
    rows = len(pixels)
    result = np.empty((3, rows, axis.stop - axis.start), np.uint8)
    for band in _bands(axis):
        weights = np.ascontiguousarray(band.weights.T)
        step = max(1, _MOST_VALUES // (3 * len(weights)))
        for top in range(0, rows, step):
            source = pixels[top : top + step, band.low : band.high].transpose(2, 0, 1)
            sums = source.astype(weights.dtype, order="C").reshape(-1, len(weights)) @ weights
            levels = _levels(sums).reshape(3, -1, sums.shape[1])
            result[:, top : top + step, band.start : band.stop] = levels
    return result


def _down(planes: NDArray[np.uint8], first: int, axis: _Axis) -> NDArray[np.uint8]:
    """Resize the columns of planes [3, H, W], whose row 0 is the image's row `first`."""
    if not axis.is_needed:
        return planes
    columns = planes.shape[2]
    result = np.empty((3, axis.stop - axis.start, columns), np.uint8)
    for band in _bands(axis):
        step = max(1, _MOST_VALUES // (3 * (band.high - band.low)))
        for left in range(0, columns, step):
            source = planes[:, band.low - first : band.high - first, left : left + step]
            sums = band.weights @ source.astype(band.weights.dtype, order="C")
            result[:, band.start : band.stop, left : left + step] = _levels(sums)
    return result


def _levels(sums: NDArray[np.floating]) -> NDArray[np.floating]:
    """Round half up and clip, in place; the later cast to uint8 drops the fraction."""
    sums += 0.5
    return np.clip(sums, 0, 255, out=sums)


def _bands(axis: _Axis) -> Iterator[_Band]:
    """Yield the weights in blocks of outputs; `start` counts from the first requested output."""
    bits = _fraction_bits(axis)
    block = max(1, min(_BLOCK, int((_MOST_VALUES / axis.scale) ** 0.5)))
    for outputs in _chunks(axis, axis.start, axis.stop):
        low, high, weights = _taps(axis, outputs)
        whole = np.trunc(weights * 2.0**bits + np.copysign(0.5, weights))
        most = 255 * np.abs(whole).sum(axis=0).max() + 2.0**bits
        # Division by a power of two is exact, also for the sums.
        exact: NDArray[np.floating] = whole / 2.0**bits
        if most < _FLOAT32_INTEGERS:
            exact = exact.astype(np.float32)
        for at in range(0, len(outputs), block):
            part = slice(at, at + block)
            start = int(outputs[at]) - axis.start
            yield _band(start, low[part], int(high[part][-1]), exact[:, part])


def _band(start: int, low: NDArray[np.int64], high: int, weights: NDArray[np.floating]) -> _Band:
    """Arrange weights [taps, outputs] over the source pixels that they apply to."""
    taps, outputs = weights.shape
    first = int(low[0])
    # Taps beyond the image's border, or beyond the rounded radius, have weight 0.
    band = np.zeros((outputs, high - first + taps), weights.dtype)
    columns = (low - first)[:, None] + np.arange(taps)
    np.put_along_axis(band, columns, weights.T, axis=1)
    return _Band(start, start + outputs, first, high, band[:, : high - first])


def _fraction_bits(axis: _Axis) -> int:
    """Return the fractional bits of a pass, which depend on the largest weight of all outputs."""
    largest = max(float(_taps(axis, part)[2].max()) for part in _chunks(axis, 0, axis.after))
    bits = 0
    while bits < _MOST_FRACTION_BITS and int(0.5 + largest * 2.0 ** (bits + 1)) < _WEIGHT_LIMIT:
        bits += 1
    return bits


def _chunks(axis: _Axis, start: int, stop: int) -> Iterator[NDArray[np.int64]]:
    """Yield the outputs from `start` to `stop` in chunks with a limited number of taps."""
    step = max(1, int(_MOST_VALUES // (2 * axis.support + 2)))
    for first in range(start, stop, step):
        yield np.arange(first, min(first + step, stop))


def _reach(
    axis: _Axis, outputs: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return each output's centre, its first source pixel and the one after its last."""
    centre = (outputs.astype(np.float64) + 0.5) * axis.scale
    low: NDArray[np.int64] = np.maximum((centre - axis.support + 0.5).astype(np.int64), 0)
    high: NDArray[np.int64] = np.minimum(
        (centre + axis.support + 0.5).astype(np.int64), axis.before
    )
    return centre, low, high


def _taps(
    axis: _Axis, outputs: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return each output's first source pixel, the one after its last, and weights.

    Weights are [taps, outputs], 0 beyond an output's own taps, and sum to 1.
    """
    centre, low, high = _reach(axis, outputs)
    tap = np.arange(int((high - low).max()))[:, None]
    distance = (tap + low - centre + 0.5) * (1 / axis.scale if axis.scale >= 1 else 1.0)
    kernel = _triangle if axis.filter == "bilinear" else _cubic
    weights = np.where(tap < high - low, kernel(np.abs(distance)), 0.0)
    # Summed sequentially, as in PyTorch: a pairwise sum may differ in the last bit.
    return low, high, weights / np.cumsum(weights, axis=0)[-1]


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1 - x, 0)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic with a = −0.5, as in Pillow; torch uses a = −0.75 only without antialiasing."""
    a = -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
