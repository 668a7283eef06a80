"""Find images that are in two splits in other files: encoded again, or nearly the same.

Nearly the same is what the drift watch counts once, see `service/drift/duplicates.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tidegate.models.data.folders import Split
from tidegate.models.errors import BuildRefused
from tidegate.service.drift.duplicates import Fingerprint, fingerprint
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


def _pairs(known: Sequence[Mark], found: Sequence[Mark]) -> Iterator[tuple[int, int]]:
    """Yield for each image of `found` the first like one of `known`, if there is one."""
    if not known:
        return
    cells = np.stack([mark.seen.cells for mark in known])
    order = np.argsort(cells.mean(axis=1), kind="stable")
    cells, means = cells[order], cells[order].mean(axis=1)
    for at, mark in enumerate(found):
        # The mean of the differences is at least the difference of the means.
        most = mark.seen.tolerance
        middle = float(mark.seen.cells.mean())
        rows = slice(*np.searchsorted(means, (middle - most - 1e-3, middle + most + 1e-3)))
        near = np.flatnonzero(np.abs(cells[rows] - mark.seen.cells).mean(axis=1) <= most)
        like = [i for i in order[rows][near].tolist() if mark.seen.is_like(known[i].seen)]
        if like:
            yield min(like), at
