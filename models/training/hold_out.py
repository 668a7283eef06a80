"""The slice of train that chooses the epoch; calibrate and test choose nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tidegate.models.data.training_data import Labelled
from tidegate.models.errors import BuildRefused

_LEAST = 20  # images in the slice
_PLACE = 2  # among the seeds


def hold_out(
    images: Sequence[Labelled], share: float, seed: int
) -> tuple[list[Labelled], list[Labelled]]:
    """Return the images to train on, and the slice: `share` of each class, at least one of it.

    Raises BuildRefused if a class has a single image, or if the slice is too small to choose by.
    """
    ids = np.array([image.class_id for image in images])
    held = np.zeros(len(images), bool)
    for class_id in np.unique(ids):
        rows = np.flatnonzero(ids == class_id)
        if len(rows) < 2:
            raise BuildRefused(f"Class {class_id} has a single training image: add some.")
        count = max(1, round(share * len(rows)))
        rng = np.random.default_rng([seed, _PLACE, int(class_id)])
        held[rng.choice(rows, count, replace=False)] = True
    if held.sum() < _LEAST:
        raise BuildRefused(
            f"The slice of train that chooses the epoch has {held.sum()} images, and needs "
            f"{_LEAST}: add training images, or set stages.slice higher (it is {share:g}, and may "
            "be 0.5)."
        )
    return (
        [image for image, out in zip(images, held, strict=True) if not out],
        [image for image, out in zip(images, held, strict=True) if out],
    )
