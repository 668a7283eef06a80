"""Measure a preprocessing that is not stated against others that training may have used.

A wrong input size, crop or normalisation is proved and sealed like the right one: it is exactly
what the library does by default. Only its accuracy is lower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from tidegate.models.data.folders import Item, Split
from tidegate.models.data.outputs import load_pixels
from tidegate.models.errors import BuildRefused
from tidegate.models.importers.base import Imported, Rival
from tidegate.models.parity.preprocessing import normalised
from tidegate.models.progress import say
from tidegate.service.errors import RequestError
from tidegate.service.imaging.spec import PreprocessSpec

_IMAGES = 200
_BATCH = 8
_LEAST = 0.02  # of accuracy: a smaller advantage is no reason to refuse
_CHANCE = 1e-3  # that an equal preprocessing looks so much better, for all rivals together

Forward = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def check_rivals(imported: Imported, calibrate: Split) -> None:
    """Raise BuildRefused if a rival of the model's preprocessing is clearly more accurate.

    They are compared on some calibration images. A rival whose size the network cannot take is
    left out.
    """
    if not imported.rivals or imported.forward is None:
        return
    say("The source does not state the preprocessing of its training: comparing others.")
    items = _spread(calibrate.items)
    ours = _right(imported.spec, imported.forward, items)
    say(f"  the model's default: {ours.mean():.1%} of {len(items)} calibration images are right")
    scored: dict[Rival, NDArray[np.bool_]] = {}
    for rival in imported.rivals:
        try:
            scored[rival] = _right(rival.spec, imported.forward, items)
        except (AssertionError, RuntimeError, ValueError):  # torch's, for a size that is too small
            continue
        say(f"  {rival.options}: {scored[rival].mean():.1%}")
    if not scored:
        return
    best = max(scored, key=lambda rival: int(scored[rival].sum()))
    won, lost = int(np.sum(scored[best] & ~ours)), int(np.sum(ours & ~scored[best]))
    if (won - lost) / len(items) < _LEAST or _chance(won, lost) * len(scored) > _CHANCE:
        return
    raise BuildRefused(
        f"With {best.options}, {scored[best].mean():.1%} of {len(items)} calibration images are "
        f"right, but {ours.mean():.1%} with the model's default, which nothing states to be that "
        f"of training. Give {best.options} or what training used; to keep the default, state it "
        "in the same way."
    )


def _right(spec: PreprocessSpec, forward: Forward, items: Sequence[Item]) -> NDArray[np.bool_]:
    """Return which images are classified correctly, [n]; those that cannot be decoded are not."""
    right = np.zeros(len(items), np.bool_)
    for start in range(0, len(items), _BATCH):
        images, rows = [], []
        for row, item in enumerate(items[start : start + _BATCH], start):
            try:
                images.append(normalised(load_pixels(item.path, spec), spec))
            except RequestError:
                continue
            rows.append(row)
        if images:
            truth = [items[row].class_id for row in rows]
            right[rows] = forward(np.stack(images)).argmax(axis=1) == truth
    return right


def _spread(items: Sequence[Item]) -> Sequence[Item]:
    """Return at most `_IMAGES`, evenly from all; the calibration images are shuffled."""
    return items[:: max(1, -(-len(items) // _IMAGES))]


def _chance(won: int, lost: int) -> float:
    """Return the one-sided p-value of McNemar's exact test."""
    return float(binom.sf(won - 1, won + lost, 0.5))
