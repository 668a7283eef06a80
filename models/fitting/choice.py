"""Choose the scores that decide, on calibration images that are in neither fold.

A combination is judged by how well it separates these images from two kinds of OOD images:
synthetic ones, and images of classes that are removed from the model. Neither needs other data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from tidegate.models.data.outputs import NetworkOutputs
from tidegate.models.data.rows import Float64
from tidegate.models.evaluation.ood_metrics import auroc
from tidegate.models.fitting.candidates import DETECTOR
from tidegate.models.fitting.conformal import Combination, combine
from tidegate.models.fitting.detector import CrossFitted, cross_fitted, group_of
from tidegate.models.fitting.synthetic_ood import PATTERNS
from tidegate.models.sealing.gate_head import GateHead
from tidegate.service.ood.conformal import TailedFold

_GROUPS = 10  # of classes, at most
_MARGIN = 0.002  # of AUROC, by which a further score must improve the criterion
_MOST_SCORES = 3
_T = TypeVar("_T")
ScoreValues = dict[str, Float64]  # score → values, [n]


@dataclass(frozen=True, slots=True)
class Choice:
    """The AUROC of each candidate, and the combination that it leads to."""

    synthetic: dict[Combination, float]  # mean over groups of synthetic images
    removed_classes: dict[Combination, float]  # mean over images; empty if not measurable

    @property
    def criterion(self) -> dict[Combination, float]:
        """Return the mean of both AUROCs of each candidate."""
        if not self.removed_classes:
            return self.synthetic
        return {c: (self.synthetic[c] + self.removed_classes[c]) / 2 for c in self.synthetic}

    @property
    def combination(self) -> Combination:
        """Return the candidate with the best criterion; a further score must add _MARGIN to it."""
        criterion = self.criterion
        return max(criterion, key=lambda c: round(criterion[c] - _MARGIN * len(c), 6))

    @property
    def named(self) -> dict[str, float]:
        """Return the criterion by name, as sealed in the manifest."""
        return {" + ".join(c): round(value, 4) for c, value in self.criterion.items()}


def choose(
    head: GateHead, images: NetworkOutputs, synthetic: Mapping[str, NetworkOutputs]
) -> Choice:
    """Return the combination of up to three of the head's scores with the best criterion.

    Each further score must improve it by _MARGIN. The detector's scores are cross-fitted, so that
    it is judged on images and groups of synthetic images on which it was not fitted.
    """
    sizes = range(1, _MOST_SCORES + 1)
    candidates = [c for size in sizes for c in combinations(head.names, size)]
    detected: Mapping[str, CrossFitted] = {}
    if DETECTOR in head.names:
        features = {kind: outputs.features for kind, outputs in synthetic.items()}
        detected = cross_fitted(images.features, features)
    of_kinds = [
        _aurocs(candidates, *_on_synthetic(head, images, kind, outputs, detected))
        for kind, outputs in synthetic.items()
    ]
    of_removed, weights = [], []
    for values, outside in removed_classes(head, images):
        if detected:
            values[DETECTOR] = detected[PATTERNS].inside
        rest = {name: value[~outside] for name, value in values.items()}
        unknown = {name: value[outside] for name, value in values.items()}
        of_removed.append(_aurocs(candidates, rest, unknown))
        weights.append(int(outside.sum()))
    groups = Counter(map(group_of, synthetic))  # every group counts the same
    return Choice(
        synthetic=weighted_mean(of_kinds, [1 / groups[group_of(kind)] for kind in synthetic]),
        removed_classes=weighted_mean(of_removed, weights) if of_removed else {},
    )


def cheapest(candidates: Sequence[_T], criterion: Sequence[float]) -> _T:
    """Return the first candidate that is worse than the best by at most _MARGIN."""
    enough = max(criterion) - _MARGIN - 1e-9
    return next(c for c, value in zip(candidates, criterion, strict=True) if value >= enough)


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


def _on_synthetic(
    head: GateHead,
    images: NetworkOutputs,
    kind: str,
    outputs: NetworkOutputs,
    detected: Mapping[str, CrossFitted],
) -> tuple[ScoreValues, ScoreValues]:
    """Return the scores of `images` and those of a kind of synthetic image."""
    inside, outside = _values(head, images), _values(head, outputs)
    if detected:
        found = detected[group_of(kind)]
        inside[DETECTOR], outside[DETECTOR] = found.inside, found.outside[kind]
    return inside, outside


def _aurocs(
    candidates: list[Combination], inside: ScoreValues, outside: ScoreValues
) -> dict[Combination, float]:
    tails = {name: TailedFold.of(np.sort(values)) for name, values in inside.items()}
    return {c: auroc(combine(tails, c, inside), combine(tails, c, outside)) for c in candidates}


def weighted_mean(
    found: Sequence[Mapping[Combination, float]], weights: Sequence[float]
) -> dict[Combination, float]:
    """Return the mean AUROC of each candidate over several sets of images."""
    return {
        c: float(np.average([aurocs[c] for aurocs in found], weights=weights)) for c in found[0]
    }
