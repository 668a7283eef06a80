"""Notice labels that are exchanged: the network recognises each of the classes as another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from tidegate.models.errors import BuildRefused

# Chance that a network confuses classes so often in both directions although the labels are right.
_CHANCE = 1e-4
_NAMED = 3

ClassIds = NDArray[np.int64]


def check_label_order(truth: ClassIds, predicted: ClassIds, labels: tuple[str, ...]) -> None:
    """Raise BuildRefused if labels look exchanged; `truth` and `predicted` are class ids, [n].

    They do if classes form a ring in which most images of each are recognised as the next one,
    and if this cannot be chance.
    """
    for ring in _rings(_taken_for(truth, predicted)):
        sentences = [_sentence(truth, predicted, labels, a, b) for a, b in ring[:_NAMED]]
        elsewhere = sum(int(np.sum((truth == a) & (predicted == b))) for a, b in ring)
        right = sum(int(np.sum((truth == a) & (predicted == a))) for a, _ in ring)
        if binom.sf(elsewhere - 1, elsewhere + right, 0.5) < _CHANCE:
            raise BuildRefused(
                f"Labels look exchanged: {'; '.join(sentences)}"
                f"{'; …' if len(ring) > _NAMED else ''}. The labels must be in the order of the "
                "model's outputs. If the folders are right, correct --labels; if the network is "
                "indeed so often wrong, give --accept-label-order."
            )


def _taken_for(truth: ClassIds, predicted: ClassIds) -> dict[int, int]:
    """Return the other class as which most images of a class are recognised, where there is one."""
    found = {}
    for class_id in np.unique(truth).tolist():
        others, counts = np.unique(predicted[truth == class_id], return_counts=True)
        top = int(counts.argmax())
        if others[top] != class_id and 2 * counts[top] > counts.sum():
            found[class_id] = int(others[top])
    return found


def _rings(taken_for: dict[int, int]) -> Iterator[list[tuple[int, int]]]:
    """Yield the cycles of the mapping, each once, as pairs."""
    seen: set[int] = set()
    for start in taken_for:
        walk: list[int] = []
        at: int | None = start
        while at is not None and at not in seen:
            seen.add(at)
            walk.append(at)
            at = taken_for.get(at)
        if at in walk:
            ring = walk[walk.index(at) :]
            yield [(a, taken_for[a]) for a in ring]


def _sentence(
    truth: ClassIds, predicted: ClassIds, labels: tuple[str, ...], class_id: int, other: int
) -> str:
    own = truth == class_id
    count = int(np.sum(own & (predicted == other)))
    return (
        f"{count} of {int(own.sum())} calibration images of {labels[class_id]!r} are recognised "
        f"as {labels[other]!r}"
    )
