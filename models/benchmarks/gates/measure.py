"""One row of the comparison: false rejections, AUROC of every score, and what the gate catches."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tidegate.models.build_request import Data, read_splits
from tidegate.models.data.outputs import extract, load_pixels, run_pixels
from tidegate.models.evaluation.expected_share import ExpectedShares, Range
from tidegate.models.evaluation.intervals import beta_share
from tidegate.models.fitting.choice import Choice
from tidegate.models.fitting.conformal import (
    Combination,
    Scores,
    calibrate,
    combine,
    final_p_values,
)
from tidegate.models.fitting.coverage import PER_KIND, LabelledOutputs
from tidegate.models.fitting.fit import FitOptions, fit, score_rows
from tidegate.models.fitting.separation import separation, unseen_synthetic
from tidegate.models.sealing.unseal import unseal
from tidegate.service.bundle.evidence import Coverage, Share
from tidegate.service.bundle.store import open_bundle
from tidegate.service.types import ENERGY, MAHALANOBIS

CAUGHT = ("dialogs", "pages", "tables", "pie charts", "scatter plots", "icons", "emoji")
FORMER: Combination = (ENERGY, MAHALANOBIS)  # decided in every bundle before there was a choice
USUAL = "photographs"  # the name of the images that a network for photographs was made for
_PARTITIONS = 200


@dataclass(frozen=True, slots=True)
class Row:
    """The measurements of one bundle's gate, on images that took no part in its fit."""

    bundle: str
    accuracy: Share | None
    flagged: Share | None  # share of test images with p ≤ alpha_review
    expected: Range | None  # of that share, if the test images are like those of fold B
    combination: Combination
    separation: Choice
    caught: Mapping[str, float]  # kind of synthetic image → rejected or marked for review
    real: Mapping[str, tuple[float, float]] | None = None  # as from `on_real_images`

    @property
    def best_single(self) -> Combination:
        """Return the single score with the best criterion."""
        criterion = self.separation.criterion
        return max((c for c in criterion if len(c) == 1), key=lambda c: criterion[c])


def measure(path: Path, data: Data, drawn: Mapping[str, list[Path]] | None = None) -> Row:
    """Fit the gate of the bundle at `path` again on its own images, and measure every score.

    `drawn` are sets of real images that are no photographs, for a network for photographs.
    """
    bundle = open_bundle(path)
    manifest, spec, target = bundle.manifest, bundle.manifest.preprocess, FitOptions().target
    splits = read_splits(data, bundle.labels, target)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        backbone = unseal(bundle.model_path.read_bytes())
        fitted = fit(backbone, spec, splits, bundle.labels, FitOptions(), scratch)
        test = extract(fitted.graph, splits.test, spec, scratch)
        every = max(1, len(test) // PER_KIND)
        photographs = [load_pixels(item.path, spec) for item in test.split.items[::every]]
        found = separation(
            fitted.every,
            fitted.gate.combination,
            LabelledOutputs(fitted.folds[0].outputs, fitted.folds[0].split.class_ids),
            LabelledOutputs(test.outputs, test.split.class_ids),
            unseen_synthetic(fitted.graph, spec, photographs),
        )
        scores, gate = score_rows(fitted.head, test), fitted.gate
        combined = combine(gate.folds_a, gate.combination, scores.values)
        p = final_p_values(gate, combined, scores.predicted)
        real = None
        if drawn is not None:
            usual = [score_rows(fitted.every, part) for part in (*fitted.folds, test)]
            outputs = {
                name: run_pixels(fitted.graph, [load_pixels(path, spec) for path in paths])
                for name, paths in drawn.items()
            }
            other = {name: score_rows(fitted.every, found) for name, found in outputs.items()}
            real = on_real_images(usual, other, gate.combination, len(bundle.labels))
    return Row(
        bundle=manifest.name,
        accuracy=None if manifest.evaluation is None else manifest.evaluation.accuracy,
        flagged=beta_share(int((p <= gate.alpha_review).sum()), len(p)),
        expected=ExpectedShares.of(gate, scores.predicted).flagged,
        combination=gate.combination,
        separation=found,
        caught={} if manifest.coverage is None else caught(manifest.coverage),
        real=real,
    )


def on_real_images(
    usual: Sequence[Scores], drawn: Mapping[str, Scores], chosen: Combination, classes: int
) -> dict[str, tuple[float, float]]:
    """Return what FORMER and the `chosen` scores flag of USUAL images and of sets of `drawn` ones.

    The usual images (fold A, fold B, others) change places _PARTITIONS times, as the share of a
    single calibration says little. The drawn ones are given to the calibration of the bundle.
    """
    target = FitOptions().target
    every = Scores(
        {name: np.concatenate([part.values[name] for part in usual]) for name in usual[0].values},
        np.concatenate([part.predicted for part in usual]),
    )
    bounds = np.cumsum([len(part) for part in usual])[:2]
    rng = np.random.default_rng(0)
    places = [np.split(rng.permutation(len(every)), bounds) for _ in range(_PARTITIONS)]

    def flagged(combination: Combination, *parts: Scores) -> float:
        a, b, new = (
            Scores({name: part.values[name] for name in combination}, part.predicted)
            for part in parts
        )
        gate = calibrate(a, b, classes, target, combination)
        p = final_p_values(gate, combine(gate.folds_a, combination, new.values), new.predicted)
        return float((p <= gate.alpha_review).mean())

    def mean_flagged(combination: Combination) -> float:
        return float(np.mean([flagged(combination, *map(every.part, rows)) for rows in places]))

    a, b = usual[:2]
    return {USUAL: (mean_flagged(FORMER), mean_flagged(chosen))} | {
        name: (flagged(FORMER, a, b, new), flagged(chosen, a, b, new))
        for name, new in drawn.items()
    }


def caught(coverage: Coverage) -> dict[str, float]:
    """Return the share of each kind of CAUGHT that is rejected or marked for review."""
    shares = {kind.name: kind.caught.value for kind in coverage.kinds}
    return {name: shares[name] for name in CAUGHT}
