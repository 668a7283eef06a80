"""Calibrate the demo's gate on photographs: `tidegate demo-calibration`.

The photographs are split by content digest into three disjoint parts. The centre and the energy
temperature are fitted on the first, the sorted scores come from fold A, and the sorted combined
scores, which make the final p-value exact, from fold B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.models.data.outputs import MAX_PIXELS
from tidegate.models.demo.calibration_file import DemoCalibration
from tidegate.models.demo.evaluate import Pictures, evaluate, held_out_uniformity
from tidegate.models.demo.fit import Fit, fit_gate
from tidegate.models.demo.model import gate_head, sealed_graph
from tidegate.models.demo.photographs import PACKAGES, Photograph, split, split_digest
from tidegate.models.demo.source import CHECKPOINT_SHA256
from tidegate.models.demo.spec import PREPROCESS
from tidegate.models.errors import BuildRefused
from tidegate.models.fitting import synthetic_ood
from tidegate.models.fitting.drift_reference import class_counts
from tidegate.models.probes.photographs import PHOTOS
from tidegate.models.progress import follow
from tidegate.models.sealing.check import check_against_float64, run
from tidegate.service.imaging.preprocess import preprocess
from tidegate.service.ood.conformal import p_value, sample_size_for
from tidegate.service.types import Outputs, Pixels

ALPHA_REJECT, ALPHA_REVIEW = 0.01, 0.05
Weights = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class MeasurementBudget:
    """Numbers of images and repetitions; the committed calibration used the defaults."""

    synthetic_per_kind: int = 40
    report_per_kind: int = 100
    partitions: int = 200


def calibrate(
    photographs: list[Photograph], weights: Weights, pictures: Pictures, budget: MeasurementBudget
) -> DemoCalibration:
    """Fit, calibrate and evaluate; the same photographs give the same numbers.

    Raises BuildRefused if there are too few photographs for the alphas.
    """
    parts = split(photographs)
    _check_sizes(parts)
    fit = _fit([item.pixels for item in parts["fit"]], weights, budget.synthetic_per_kind)
    head = fit.head(weights)
    sealed = sealed_graph(weights, head)
    outputs = {
        name: run(sealed, follow(_pixels(items), f"Scoring {name}"))
        for name, items in parts.items()
    }
    for part in outputs.values():
        check_against_float64(part, head)
    calibration = DemoCalibration(
        centre=fit.centre,
        **fold_scores(outputs["fold_a"], outputs["fold_b"]),
        class_counts=np.array(
            class_counts(
                np.concatenate(
                    [outputs[name].logits.argmax(axis=1) for name in ("fold_a", "fold_b")]
                ),
                outputs["fold_a"].logits.shape[1],
            )
        ),
        report=_report(parts, fit, sealed),
    )
    _check_power(calibration)
    calibration.report["uniformity"] = held_out_uniformity(
        outputs["fold_a"], outputs["fold_b"], budget.partitions
    )
    calibration.report["evaluation"] = evaluate(
        sealed, calibration, outputs["fold_b"], pictures, budget.report_per_kind
    )
    return calibration


def fold_scores(fold_a: Outputs, fold_b: Outputs) -> dict[str, NDArray[np.float64]]:
    """Return fold A's sorted scores and fold B's sorted combined scores."""
    energy_a = np.sort(fold_a.energy.astype(np.float64))
    mahalanobis_a = np.sort(fold_a.mahalanobis.astype(np.float64))
    combined = -np.minimum(
        p_value(energy_a, fold_b.energy), p_value(mahalanobis_a, fold_b.mahalanobis)
    )
    return {
        "energy_a": energy_a,
        "mahalanobis_a": mahalanobis_a,
        "combined_b": np.sort(combined),
    }


def witness_scores(sealed: bytes) -> dict[str, dict[str, float]]:
    """Return both scores of every committed photo, which a build must reproduce."""
    images = [preprocess(path.read_bytes(), PREPROCESS, MAX_PIXELS) for path in PHOTOS]
    outputs = run(sealed, images)
    return {
        path.name: {
            "energy": float(outputs.energy[index]),
            "mahalanobis": float(outputs.mahalanobis[index]),
        }
        for index, path in enumerate(PHOTOS)
    }


def _fit(photographs: list[Pixels], weights: Weights, per_kind: int) -> Fit:
    """Fit on a graph with an arbitrary head: only its logits and features are read."""
    width = weights["_fc.weight"].shape[1]
    backbone = sealed_graph(weights, gate_head(weights, np.zeros(width), 1.0, 1.0))
    images = {
        kind: synthetic_ood.generate(kind, per_kind, synthetic_ood.SELECTION_SEED, PREPROCESS)
        for kind in synthetic_ood.KINDS
        if kind != "stripes"  # kept for the report, as a kind not used in the choice
    }
    images["shuffled patches"] = synthetic_ood.shuffled(photographs, synthetic_ood.SELECTION_SEED)
    outputs = {
        kind: run(backbone, follow(pictures, f"Scoring {kind}"))
        for kind, pictures in images.items()
    }
    return fit_gate(run(backbone, photographs), outputs, weights)


def _pixels(photographs: list[Photograph]) -> list[Pixels]:
    return [item.pixels for item in photographs]


def _check_sizes(parts: Mapping[str, list[Photograph]]) -> None:
    need = sample_size_for(ALPHA_REJECT)
    smallest = min(len(parts["fold_a"]), len(parts["fold_b"]))
    if smallest < need:
        raise BuildRefused(
            f"alpha_reject {ALPHA_REJECT} needs {need} photographs per fold; there are {smallest}."
        )


def _check_power(calibration: DemoCalibration) -> None:
    """Raise BuildRefused for a gate that can never reject.

    Photographs of fold B that score above all of fold A tie with the most unusual possible input,
    so the smallest final p-value is (1 + their number) / (n + 1), not 1 / (n + 1).
    """
    smallest = calibration.gate.smallest_p_value
    calibration.report["smallest_p_value"] = smallest
    if smallest > ALPHA_REJECT:
        raise BuildRefused(
            f"The smallest possible p-value, {smallest:.4f}, is above alpha_reject {ALPHA_REJECT}."
        )


def _report(parts: Mapping[str, list[Photograph]], fit: Fit, sealed: bytes) -> dict[str, Any]:
    return {
        "recipe": "tidegate demo-calibration",
        "checkpoint_sha256": CHECKPOINT_SHA256,
        "preprocess_sha256": PREPROCESS.digest,
        "packages": [
            {"name": item.name, "version": item.version, "sha256": item.sha256} for item in PACKAGES
        ],
        "splits": {
            name: {"photographs": len(items), "sha256": split_digest(items)}
            for name, items in parts.items()
        },
        "fit": {
            "energy_temperature": fit.temperature,
            "centre": fit.centre_name,
            "shrinkage": fit.shrinkage,
            "criterion": "mean AUROC over kinds of synthetic OOD images, on the fit split",
            "auroc": {
                name: {kind: round(value, 4) for kind, value in row.items()}
                for name, row in fit.table.items()
            },
        },
        "thresholds": {"alpha_reject": ALPHA_REJECT, "alpha_review": ALPHA_REVIEW},
        "witnesses": witness_scores(sealed),
    }
