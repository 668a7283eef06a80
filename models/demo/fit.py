"""Fit the gate on the fit split: the features' centre, the shrinkage, and the scores that decide.

The criterion for centre and shrinkage uses no fold and no reported set. It is the AUROC of the
distance between the fit photographs and a kind of synthetic OOD image, averaged over the kinds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.models.data.outputs import NetworkOutputs
from tidegate.models.demo.model import gate_head, last_layer
from tidegate.models.evaluation.ood_metrics import auroc
from tidegate.models.fitting.candidates import ceiling_of, with_candidates
from tidegate.models.fitting.choice import Choice, choose
from tidegate.models.fitting.detector import drawn_features, fit_detector
from tidegate.models.sealing.gate_head import GateHead
from tidegate.models.sealing.score_heads import Linear
from tidegate.service.ood.scores import mahalanobis_score
from tidegate.service.types import Outputs

SHRINKAGES = (0.3, 0.5, 0.7, 0.9, 1.0)  # 1: spherical
Float64 = NDArray[np.float64]
Weights = Mapping[str, NDArray[Any]]
SyntheticOod = Mapping[str, Outputs]  # kind → outputs
Aurocs = dict[str, float]  # kind → AUROC


@dataclass(frozen=True, slots=True)
class Fit:
    """The chosen parameters, and the criterion of every candidate."""

    head: GateHead  # with the chosen scores
    centre: NDArray[np.float32]  # [1280]
    centre_name: str
    shrinkage: float
    ceiling: float  # of clipped features
    detector: Linear  # of drawn images
    choice: Choice
    table: dict[str, Aurocs]


def fit_gate(photographs: Outputs, synthetic: SyntheticOod, weights: Weights) -> Fit:
    """Choose the parameters with the best mean AUROC; for ties, the first candidate."""
    analytic = analytic_mean(weights)
    distances: dict[tuple[str, float], Aurocs] = {}
    heads = {shrinkage: gate_head(weights, analytic, shrinkage) for shrinkage in SHRINKAGES}
    for shrinkage, head in heads.items():
        distances["fit photographs", shrinkage] = _cross_fitted_aurocs(photographs, synthetic, head)
        distances["analytic training features", shrinkage] = _distance_aurocs(
            photographs.features, synthetic, head
        )
    name, shrinkage = max(distances, key=lambda choice: _mean_auroc(distances[choice]))
    mean = analytic if name.startswith("analytic") else _mean(photographs.features)
    centre = mean.astype(np.float32)
    ceiling = ceiling_of(photographs.features)
    drawn = drawn_features({kind: outputs.features for kind, outputs in synthetic.items()})
    detector = fit_detector(photographs.features, drawn)
    head = replace(heads[shrinkage], centre=centre)
    every = with_candidates(head, ceiling, last_layer(weights), detector)
    choice = choose(
        every,
        NetworkOutputs(photographs.logits, photographs.features),
        {kind: NetworkOutputs(o.logits, o.features) for kind, o in synthetic.items()},
    )
    return Fit(
        head=every.with_scores(choice.combination),
        centre=centre,
        centre_name=name,
        shrinkage=shrinkage,
        ceiling=ceiling,
        detector=detector,
        choice=choice,
        table={f"mean of the {n}, λ = {s:g}": row for (n, s), row in distances.items()},
    )


def analytic_mean(weights: Weights) -> Float64:
    """Return E[ReLU6(x)] of the last batch-norm's outputs, x ~ N(bias, weight²), [1280].

    On its training images, a batch-norm's output has that mean and variance. So this estimates the
    mean training feature from only the checkpoint, if the output is nearly normal.
    """
    mean = np.asarray(weights["_bn1.bias"], np.float64)
    std = np.abs(np.asarray(weights["_bn1.weight"], np.float64))
    return _expected_relu(mean, std) - _expected_relu(mean - 6, std)


def _expected_relu(mean: Float64, std: Float64) -> Float64:
    z = mean / std
    below = 0.5 * (1 + np.array([math.erf(value / math.sqrt(2)) for value in z]))
    return mean * below + std * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _cross_fitted_aurocs(inside: Outputs, synthetic: SyntheticOod, head: GateHead) -> Aurocs:
    """Score each half of the photographs around the other half's mean, to avoid bias."""
    half = len(inside.features) // 2
    halves = inside.features[:half], inside.features[half:]
    rows = [
        _distance_aurocs(scored, synthetic, replace(head, centre=_mean(centring)))
        for scored, centring in (halves, halves[::-1])
    ]
    return {kind: (rows[0][kind] + rows[1][kind]) / 2 for kind in synthetic}


def _distance_aurocs(
    features: NDArray[np.float32], synthetic: SyntheticOod, head: GateHead
) -> Aurocs:
    photos = _distance(features, head)
    return {kind: auroc(photos, _distance(o.features, head)) for kind, o in synthetic.items()}


def _distance(features: NDArray[np.float32], head: GateHead) -> Float64:
    return mahalanobis_score(features, head.centre, head.whitening, head.means, normalise=True)[0]


def _mean(features: NDArray[np.float32]) -> Float64:
    return np.asarray(np.mean(features, axis=0, dtype=np.float64))


def _mean_auroc(row: Aurocs) -> float:
    return float(np.mean(list(row.values())))
