"""Recognises images that were just seen, so that a burst of like images is counted once.

An image is a near-duplicate if, within the last minute, an image with the same pixels was counted,
or the last image counted of the same client is nearly the same. After a minute it counts again,
because a camera that sends the same dark image permanently must be noticed. The rule does not use
the answers, so it does not favour a class or a decision.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tidegate.service.types import Pixels

WINDOW_S = 60.0
MAX_REMEMBERED_IMAGES = 4_096
MAX_REMEMBERED_CLIENTS = 4_096
_CELLS = 8  # per side
_SAMPLES = 4  # pixels per side of a cell
CELLS = _CELLS**2  # of a fingerprint
_ALIKE = 0.1  # of the cells' standard deviation: the largest mean difference of like images
_NOISE = 0.5  # of 255: what decoding the same scene again may add

K = TypeVar("K")
V = TypeVar("V")


class Fingerprint(NamedTuple):
    """A perceptual hash of an image, and a hash of some of its pixels."""

    pixels: int
    cells: NDArray[np.float32]  # [64], mean of 16 pixels each
    contrast: float  # the cells' standard deviation

    @property
    def tolerance(self) -> float:
        """Return the largest mean difference of cells to an image of this contrast or more."""
        return _ALIKE * self.contrast + _NOISE

    def is_like(self, other: Fingerprint) -> bool:
        """Return whether the two images are nearly the same."""
        most = min(self.tolerance, other.tolerance)
        difference = np.abs(self.cells - other.cells)
        return float(np.add.reduce(difference)) <= most * len(difference)  # `mean` takes twice that


def fingerprint(pixels: Pixels) -> Fingerprint:
    """Return the fingerprint of preprocessed pixels, uint8 [H, W, 3]. Takes some 20 µs."""
    rows, columns = _grid(*pixels.shape[:2])
    some = pixels[rows, columns, 1]
    sums = some.reshape(_CELLS, _SAMPLES, _CELLS, _SAMPLES).sum(axis=1, dtype=np.float32)
    cells = sums.sum(axis=2).ravel() / _SAMPLES**2
    apart = cells - cells.sum() / cells.size
    contrast = math.sqrt(float(apart @ apart) / cells.size)
    return Fingerprint(_digest(some.tobytes()), cells, contrast)


def _digest(pixels: bytes) -> int:
    """Return the same number in every process, unlike hash()."""
    return int.from_bytes(hashlib.blake2b(pixels, digest_size=8).digest(), "little")


@lru_cache(maxsize=8)
def _grid(height: int, width: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    side = _CELLS * _SAMPLES
    rows = np.linspace(0, height - 1, side).astype(np.intp)
    return rows[:, None], np.linspace(0, width - 1, side).astype(np.intp)


class Duplicates:
    """Remembers the images that were counted in the last minute. Bounded."""

    def __init__(self) -> None:
        self._counted: OrderedDict[int, float] = OrderedDict()  # hash of pixels → when
        self._of_client: OrderedDict[str, tuple[Fingerprint, float]] = OrderedDict()

    def is_new(self, image: Fingerprint, client: str, now: float) -> bool:
        """Return whether to count an image at `now`, in seconds, and remember it if so."""
        counted = self._counted.get(image.pixels)
        if counted is not None and 0 <= now - counted < WINDOW_S:
            return False
        last = self._of_client.get(client)
        if last is not None and 0 <= now - last[1] < WINDOW_S and image.is_like(last[0]):
            return False
        _remember(self._counted, image.pixels, now, MAX_REMEMBERED_IMAGES)
        _remember(self._of_client, client, (image, now), MAX_REMEMBERED_CLIENTS)
        return True


def _remember(known: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > most:
        known.popitem(last=False)
