"""Choose the scores that decide, on calibration images that are in neither fold.

A combination is judged by how well it separates these images from two kinds of OOD images: built-in
nonsense, and images of classes that are removed from the model. Neither needs other data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from tidegate.models.data.rows import Float32, Float64
from tidegate.models.evaluation.ood_metrics import auroc
from tidegate.models.fitting.conformal import Combination, combine
from tidegate.models.sealing.gate_head import GateHead
from tidegate.service.ood.conformal import TailedFold

_GROUPS = 10  # of classes, at most
_MARGIN = 0.002  # of AUROC, by which a second score must improve the combination
ScoreValues = Mapping[str, Float64]  # score → values, [n]


@dataclass(frozen=True, slots=True)
class NetworkOutputs:
    """The backbone's outputs for some images."""

    logits: Float32  # [n, C]
    features: Float32  # [n, D]

    def part(self, rows: NDArray[np.bool_]) -> NetworkOutputs:
        """Return some of the images."""
        return NetworkOutputs(self.logits[rows], self.features[rows])


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen combination, and the criterion of each candidate."""

    combination: Combination
    nonsense: dict[Combination, float]  # mean AUROC over kinds of nonsense
    removed_classes: dict[Combination, float]  # mean AUROC over images; empty if not measurable

    @property
    def criterion(self) -> dict[Combination, float]:
        """Return the mean of both AUROCs, by which the combination was chosen."""
        return _criterion(self.nonsense, self.removed_classes)

    @property
    def named(self) -> dict[str, float]:
        """Return the criterion by name, as sealed in the manifest."""
        return {" + ".join(c): round(value, 4) for c, value in self.criterion.items()}


def choose(
    head: GateHead, images: NetworkOutputs, nonsense: Mapping[str, NetworkOutputs]
) -> Choice:
    """Return the single score or sum of two with the best criterion.

    Of two scores, the better one is preferred to their sum unless that is better by _MARGIN.
    """
    candidates = [c for size in (1, 2) for c in combinations(head.names, size)]
    inside = _values(head, images)
    on_nonsense = [
        _aurocs(candidates, inside, _values(head, outputs)) for outputs in nonsense.values()
    ]
    removed, weights = [], []
    for with_removed, outside in removed_classes(head, images):
        rest = {name: values[~outside] for name, values in with_removed.items()}
        unknown = {name: values[outside] for name, values in with_removed.items()}
        removed.append(_aurocs(candidates, rest, unknown))
        weights.append(int(outside.sum()))
    of_nonsense = _mean(on_nonsense, [1] * len(on_nonsense))
    of_removed = _mean(removed, weights) if removed else {}
    criterion = _criterion(of_nonsense, of_removed)
    best = max(candidates, key=lambda c: criterion[c] - _MARGIN * (len(c) - 1))
    return Choice(best, of_nonsense, of_removed)


def class_groups(means: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the group of each class, [C]: similar classes, by Ward's clustering of their means."""
    if len(means) <= _GROUPS:
        return np.arange(len(means))
    tree = linkage(np.asarray(means, np.float64), "ward")
    return np.asarray(fcluster(tree, _GROUPS, "maxclust") - 1, np.int64)


def removed_classes(
    head: GateHead, images: NetworkOutputs
) -> Iterator[tuple[ScoreValues, NDArray[np.bool_]]]:
    """Yield, for each group of classes, the scores without the group, and which images are OOD.

    The group is removed from the logits and the means. Images predicted as one of its classes are
    OOD then, as the model no longer has their class.
    """
    groups = class_groups(head.means)
    predicted = groups[images.logits.argmax(axis=1)]
    for group in np.unique(predicted):
        outside, kept = predicted == group, groups != group
        if not outside.all() and kept.sum() > 1:
            of_rest = NetworkOutputs(images.logits[:, kept], images.features)
            yield _values(head.with_classes(kept), of_rest), outside


def _values(head: GateHead, outputs: NetworkOutputs) -> ScoreValues:
    scores, _ = head.scores(outputs.logits, outputs.features)
    return dict(zip(head.names, scores.T, strict=True))


def _aurocs(
    candidates: list[Combination], inside: ScoreValues, outside: ScoreValues
) -> dict[Combination, float]:
    tails = {name: TailedFold.of(np.sort(values)) for name, values in inside.items()}
    return {c: auroc(combine(tails, c, inside), combine(tails, c, outside)) for c in candidates}


def _mean(found: list[dict[Combination, float]], weights: list[int]) -> dict[Combination, float]:
    return {
        c: float(np.average([aurocs[c] for aurocs in found], weights=weights)) for c in found[0]
    }


def _criterion(
    nonsense: Mapping[Combination, float], removed: Mapping[Combination, float]
) -> dict[Combination, float]:
    if not removed:
        return dict(nonsense)
    return {c: (nonsense[c] + removed[c]) / 2 for c in nonsense}
