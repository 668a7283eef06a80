"""Fit a linear detector of documents, screens, charts and drawings on a network's features.

These images resemble no class, but energy and distances often accept them. Generated ones against
real calibration images are sufficient to separate real ones: the detector is ridge regression, and
it is one more score, whose p-value comes from fold A like that of the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tidegate.models import exact
from tidegate.models.data.rows import Float32, Float64
from tidegate.models.fitting import synthetic_ood
from tidegate.models.sealing.score_heads import Linear

_RIDGE = 30.0  # of the mean eigenvalue: features of few images say little about most directions
_MAGNITUDE = 10.0  # of the terms of a score together, so that float32 sums them accurately


def group_of(kind: str) -> str:
    """Return the group of a kind of synthetic image."""
    known = synthetic_ood.KINDS.get(kind)
    return synthetic_ood.PATTERNS if known is None else known.group


def fit_detector(images: Float32, drawn: Float32) -> Linear:
    """Return the score that separates features of `drawn` [m, D] from those of `images` [n, D].

    Both sets have the same weight. The solution is found among the images, not the features, as
    there are fewer of them (the dual of ridge regression).
    """
    x = np.concatenate([images, drawn]).astype(np.float64)
    target = np.repeat([-1.0, 1.0], [len(images), len(drawn)])
    weight = np.repeat([0.5 / len(images), 0.5 / len(drawn)], [len(images), len(drawn)])
    root = np.sqrt(weight)
    z = (x - exact.product(weight[None], x)) * root[:, None]
    gram = exact.product(z, z.T)
    ridge = _RIDGE * math.fsum(gram.diagonal()) / len(gram) * np.eye(len(gram))
    direction = exact.product(exact.solve(gram + ridge, target * root)[None], z).ravel()
    magnitudes = exact.product(np.abs(x), np.abs(direction)[:, None])
    return Linear(direction * (_MAGNITUDE * len(x) / math.fsum(magnitudes.ravel())))


@dataclass(frozen=True, slots=True)
class CrossFitted:
    """Scores of images and of synthetic images by detectors that were fitted on neither."""

    inside: Float64  # [n]
    outside: Mapping[str, Float64]  # kind → its scores


def cross_fitted(images: Float32, synthetic: Mapping[str, Float32]) -> dict[str, CrossFitted]:
    """Return, for each group of synthetic images, scores by detectors fitted without the group.

    Each half of the images is scored by a detector that was fitted on the other half.
    """
    found = {}
    second = np.arange(len(images)) % 2 == 1
    for group in sorted({group_of(kind) for kind in synthetic}):
        drawn = _drawn(synthetic, without=group)
        halves = [fit_detector(images[rows], drawn).direction for rows in (second, ~second)]
        inside = np.where(second, images @ halves[1], images @ halves[0])
        mean = (halves[0] + halves[1]) / 2
        kinds = {kind: x @ mean for kind, x in synthetic.items() if group_of(kind) == group}
        found[group] = CrossFitted(inside, kinds)
    return found


def drawn_features(synthetic: Mapping[str, Float32]) -> Float32:
    """Return the features of the kinds that the detector is fitted on: all but patterns."""
    return _drawn(synthetic, without=synthetic_ood.PATTERNS)


def _drawn(synthetic: Mapping[str, Float32], without: str) -> Float32:
    left_out = {without, synthetic_ood.PATTERNS}
    return np.concatenate([x for kind, x in synthetic.items() if group_of(kind) not in left_out])
