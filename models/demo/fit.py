"""Fit the gate on the fit split: the distance, and the scores that decide.

The criterion for the distance's centre, shrinkage and rank uses no fold and no reported set. It is
the AUROC of the distance between the fit photographs and a kind of synthetic OOD image, averaged
over the kinds.
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
from tidegate.models.fitting.choice import Choice, cheapest, choose
from tidegate.models.fitting.detector import drawn_features, fit_detector
from tidegate.models.fitting.mahalanobis import RANKS
from tidegate.models.sealing.gate_head import GateHead
from tidegate.models.sealing.score_heads import Linear
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
    rank: int
    ceiling: float  # of clipped features
    detector: Linear  # of drawn images
    choice: Choice
    table: dict[str, Aurocs]


def fit_gate(photographs: Outputs, synthetic: SyntheticOod, weights: Weights) -> Fit:
    """Choose the parameters with the best mean AUROC; for ties, the first candidate.

    The rank is the lowest that is hardly worse than the best.
    """
    analytic = analytic_mean(weights)
    distances: dict[tuple[str, float], Aurocs] = {}
    heads = {shrinkage: gate_head(weights, analytic, shrinkage) for shrinkage in SHRINKAGES}
    for shrinkage, head in heads.items():
        for centre_name in ("fit photographs", "analytic training features"):
            distances[centre_name, shrinkage] = _aurocs(centre_name, photographs, synthetic, head)
    name, shrinkage = max(distances, key=lambda choice: _mean_auroc(distances[choice]))
    mean = analytic if name.startswith("analytic") else _mean(photographs.features)
    centre = mean.astype(np.float32)
    reduced = {rank: gate_head(weights, centre, shrinkage, rank) for rank in RANKS}
    by_rank = {rank: _aurocs(name, photographs, synthetic, head) for rank, head in reduced.items()}
    rank = cheapest(RANKS, [_mean_auroc(by_rank[rank]) for rank in RANKS])
    ceiling = ceiling_of(photographs.features)
    drawn = drawn_features({kind: outputs.features for kind, outputs in synthetic.items()})
    detector = fit_detector(photographs.features, drawn)
    every = with_candidates(reduced[rank], ceiling, last_layer(weights), detector)
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
        rank=rank,
        ceiling=ceiling,
        detector=detector,
        choice=choice,
        table={
            **{f"mean of the {n}, λ = {s:g}": row for (n, s), row in distances.items()},
            **{f"the best, rank {rank}": row for rank, row in by_rank.items()},
        },
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


def _aurocs(
    centre_name: str, photographs: Outputs, synthetic: SyntheticOod, head: GateHead
) -> Aurocs:
    if centre_name.startswith("analytic"):
        return _distance_aurocs(photographs.features, synthetic, head)
    return _cross_fitted_aurocs(photographs, synthetic, head)


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
    return head.distance(features)[0]


def _mean(features: NDArray[np.float32]) -> Float64:
    return np.asarray(np.mean(features, axis=0, dtype=np.float64))


def _mean_auroc(row: Aurocs) -> float:
    return float(np.mean(list(row.values())))
