"""Find images that are in two splits in other files: encoded again, or nearly the same.

Nearly the same is what the drift watch counts once, see `service/drift/duplicates.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tidegate.models.data.folders import Split
from tidegate.models.data.together import Together
from tidegate.models.errors import BuildRefused
from tidegate.service.drift.duplicates import CELLS, Fingerprint, fingerprint
from tidegate.service.types import Pixels


@dataclass(frozen=True, slots=True)
class Mark:
    """What identifies an image by its preprocessed pixels."""

    pixels: bytes  # a hash of all of them
    seen: Fingerprint

    @classmethod
    def of(cls, pixels: Pixels) -> Mark:
        """Return the mark of preprocessed pixels, uint8 [H, W, 3]."""
        return cls(hashlib.blake2b(pixels.tobytes(), digest_size=16).digest(), fingerprint(pixels))


@dataclass(frozen=True, slots=True)
class Marked:
    """A split with the marks of its images, in their order."""

    split: Split
    marks: Sequence[Mark]


def check_pixels_disjoint(earlier: Sequence[Marked], split: Marked) -> None:
    """Raise BuildRefused with both file names if an image of `split` is in an earlier one."""
    for other in earlier:
        known = {mark.pixels: at for at, mark in enumerate(other.marks)}
        for at, mark in enumerate(split.marks):
            if mark.pixels in known:
                raise BuildRefused(
                    f"{other.split.items[known[mark.pixels]].path} ({other.split.name}) and "
                    f"{split.split.items[at].path} ({split.split.name}) have the same pixels: no "
                    "image may be in two splits."
                )


def nearly_same(train: Marked, split: Marked) -> str | None:
    """Return a sentence on the images of `split` that are nearly the same as one of `train`."""
    pairs = list(_pairs(train.marks, split.marks))
    if not pairs:
        return None
    known, found = pairs[0]
    return (
        f"{len(pairs)} of {len(split.marks)} images of {split.split.name} are nearly the same as "
        f"an image of {train.split.name}, such as {split.split.items[found].path.name} and "
        f"{train.split.items[known].path.name}: what is measured on them is too good."
    )


def like_one_of(known: Sequence[Mark], found: Sequence[Mark]) -> set[int]:
    """Return the positions of those of `found` that are nearly the same as one of `known`."""
    return {at for _, at in _pairs(known, found)}


def groups_of_like(marks: Sequence[Mark], tolerance: float = 1.0) -> list[list[int]]:
    """Return the positions of the images in groups; an image is in the group of each like one.

    A `tolerance` below 1 is the part of the usual difference that like images may have.
    """
    together = Together(len(marks))
    for at, like in _Index(marks).like(marks, tolerance):
        together.join((at, *like))
    return together.sets()


def _pairs(known: Sequence[Mark], found: Sequence[Mark]) -> Iterator[tuple[int, int]]:
    """Yield for each image of `found` the first like one of `known`, if there is one."""
    for at, like in _Index(known).like(found):
        if like:
            yield min(like), at


class _Index:
    """Images sorted by their mean, so that each is compared with few others."""

    def __init__(self, marks: Sequence[Mark]) -> None:
        cells = np.array([mark.seen.cells for mark in marks], np.float32).reshape(-1, CELLS)
        means = cells.mean(axis=1)
        self._order = np.argsort(means, kind="stable")
        self._cells, self._means = cells[self._order], means[self._order]
        self._most = np.array([mark.seen.tolerance for mark in marks])[self._order]

    def like(self, marks: Sequence[Mark], part: float = 1.0) -> Iterator[tuple[int, list[int]]]:
        """Yield the position of each of `marks`, and those of the images that are like it.

        Like by `Fingerprint.is_like`, with a part of its tolerance.
        """
        for at, mark in enumerate(marks):
            # The mean of the differences is at least the difference of the means.
            most, middle = part * mark.seen.tolerance, float(mark.seen.cells.mean())
            bounds = (middle - most - 1e-3, middle + most + 1e-3)
            rows = slice(*np.searchsorted(self._means, bounds))
            apart = np.abs(self._cells[rows] - mark.seen.cells).sum(axis=1)
            limit = np.minimum(most, part * self._most[rows]) * len(mark.seen.cells)
            yield at, self._order[rows][apart <= limit].tolist()
