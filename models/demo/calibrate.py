"""Calibrate the demo's gate on photographs: `tidegate demo-calibration`.

The photographs are split by content digest into three disjoint parts. The centre is fitted and the
scores are chosen on the first, the sorted scores come from fold A, and the sorted combined scores,
which make the final p-value exact, from fold B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tidegate.models.data.outputs import NetworkOutputs
from tidegate.models.demo.calibration_file import DemoCalibration
from tidegate.models.demo.evaluate import (
    Pictures,
    against_fp32,
    evaluate,
    held_out_uniformity,
    imagenet_samples,
)
from tidegate.models.demo.fit import Fit, fit_gate
from tidegate.models.demo.model import activations, network, sealed_graph
from tidegate.models.demo.photographs import SOURCES, Photograph, split, split_digest
from tidegate.models.demo.source import CHECKPOINT_SHA256
from tidegate.models.demo.spec import PREPROCESS
from tidegate.models.demo.temperature import fit_and_measure, labelled, together
from tidegate.models.demo.witnesses import witness_scores
from tidegate.models.errors import BuildRefused
from tidegate.models.fitting import synthetic_ood
from tidegate.models.fitting.conformal import Combination, GateTarget, combine
from tidegate.models.fitting.coverage import (
    PER_KIND,
    CalibratedHead,
    LabelledOutputs,
    left_out_p_values,
    summarise,
    synthetic_p_values,
)
from tidegate.models.fitting.drift_reference import class_counts
from tidegate.models.progress import follow
from tidegate.models.sealing.check import check_against_float64, run
from tidegate.models.sealing.gate_head import GateHead
from tidegate.service.bundle.evidence import Coverage
from tidegate.service.bundle.manifest import Precision
from tidegate.service.ood.conformal import TailedFold, sample_size_for
from tidegate.service.types import Outputs, Pixels

ALPHA_REJECT, ALPHA_REVIEW = 0.01, 0.05
Weights = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class MeasurementBudget:
    """Numbers of images and repetitions; the committed calibration used the defaults."""

    synthetic_per_kind: int = 40
    report_per_kind: int = PER_KIND
    partitions: int = 200


def calibrate(
    photographs: list[Photograph],
    weights: Weights,
    pictures: Pictures,
    budget: MeasurementBudget,
    precision: Precision = "fp32",
) -> DemoCalibration:
    """Fit, calibrate and evaluate in a precision; the same photographs give the same numbers.

    Raises BuildRefused if there are too few photographs for the alphas.
    """
    parts = split(photographs)
    _check_sizes(parts)
    pixels = _pixels(parts["fit"])
    seen = activations(weights, pixels) if precision == "int8" else None
    backbone = network(weights, precision, seen)
    fit = _fit(pixels, weights, backbone, budget.synthetic_per_kind)
    head = fit.head
    sealed = sealed_graph(backbone, head)
    outputs = {
        name: run(sealed, follow(_pixels(items), f"Scoring {name}"))
        for name, items in parts.items()
    }
    for part in outputs.values():
        check_against_float64(part, head)
    known = {name: labelled(items, outputs[name]) for name, items in parts.items()}
    calibration = DemoCalibration(
        centre=fit.centre,
        drawn=fit.detector.direction.astype(np.float32),
        **fold_scores(head, fit.choice.combination, outputs["fold_a"], outputs["fold_b"]),
        class_counts=np.array(
            class_counts(
                np.concatenate(
                    [outputs[name].logits.argmax(axis=1) for name in ("fold_a", "fold_b")]
                ),
                outputs["fold_a"].logits.shape[1],
            )
        ),
        report=_report(parts, fit, head, sealed),
        activations=seen,
    )
    calibration.report["temperature"] = fit_and_measure(
        together([known["fit"], known["fold_a"]]),
        {
            "photographs of fold B": known["fold_b"],
            "ImageNet samples of foolbox": imagenet_samples(sealed, pictures),
        },
    )
    calibration.report["uniformity"] = held_out_uniformity(
        calibration.gate, outputs["fold_a"], outputs["fold_b"], budget.partitions
    )
    calibration.report["evaluation"] = evaluate(sealed, calibration, outputs["fold_b"], pictures)
    calibration.report["coverage"] = _coverage(
        CalibratedHead(head, calibration.gate),
        sealed,
        outputs,
        pixels,
        budget.report_per_kind,
    ).model_dump(mode="json")
    if precision != "fp32":
        graphs = {"fp32": sealed_graph(network(weights), head), precision: sealed}
        calibration.report["against_fp32"] = against_fp32(
            graphs, _pixels(parts["fold_b"]), outputs["fold_b"]
        )
    return calibration


def fold_scores(
    head: GateHead, combination: Combination, fold_a: Outputs, fold_b: Outputs
) -> dict[str, NDArray[np.float64]]:
    """Return fold A's sorted scores and fold B's sorted combined scores."""
    scores_a = np.sort(fold_a.scores.astype(np.float64).T, axis=1)
    folds_a = dict(zip(head.names, map(TailedFold.of, scores_a), strict=True))
    values = dict(zip(head.names, fold_b.scores.T, strict=True))
    return {"scores_a": scores_a, "combined_b": np.sort(combine(folds_a, combination, values))}


def _coverage(
    measured: CalibratedHead,
    sealed: bytes,
    outputs: Mapping[str, Outputs],
    photographs: list[Pixels],
    per_kind: int,
) -> Coverage:
    """Return what the gate catches; a photograph's class is the predicted one, as it has no label.

    The photographs of classes that are left out are those of the fit, which no fold contains.
    """
    parts = {
        name: LabelledOutputs(NetworkOutputs(o.logits, o.features), o.logits.argmax(axis=1))
        for name, o in outputs.items()
    }
    target = GateTarget(ALPHA_REJECT, ALPHA_REVIEW)
    folds = parts["fold_a"], parts["fold_b"]
    left_out = left_out_p_values(measured, target, folds, parts["fit"])
    synthetic = synthetic_p_values(sealed, PREPROCESS, photographs, measured, per_kind)
    return summarise(synthetic, left_out, measured.gate)


def _fit(
    photographs: list[Pixels], weights: Weights, backbone: onnx.ModelProto, per_kind: int
) -> Fit:
    """Fit on a graph with an arbitrary head: only its logits and features are read."""
    means = np.asarray(weights["_fc.weight"])
    head = GateHead(1.0, np.zeros(means.shape[1]), None, means, False)
    graph = sealed_graph(backbone, head)
    images = {
        kind: synthetic_ood.generate(kind, per_kind, synthetic_ood.SELECTION_SEED, PREPROCESS)
        for kind in synthetic_ood.FIT_KINDS
    }
    images[synthetic_ood.SHUFFLED] = synthetic_ood.shuffled(
        photographs, synthetic_ood.SELECTION_SEED
    )
    outputs = {
        kind: run(graph, follow(pictures, f"Scoring {kind}")) for kind, pictures in images.items()
    }
    return fit_gate(run(graph, photographs), outputs, weights)


def _pixels(photographs: list[Photograph]) -> list[Pixels]:
    return [item.pixels for item in photographs]


def _check_sizes(parts: Mapping[str, list[Photograph]]) -> None:
    need = sample_size_for(ALPHA_REJECT)
    smallest = min(len(parts["fold_a"]), len(parts["fold_b"]))
    if smallest < need:
        raise BuildRefused(
            f"alpha_reject {ALPHA_REJECT} needs {need} photographs per fold; there are {smallest}."
        )


def _report(
    parts: Mapping[str, list[Photograph]], fit: Fit, head: GateHead, sealed: bytes
) -> dict[str, Any]:
    every = [item for items in parts.values() for item in items]
    return {
        "recipe": "tidegate demo-calibration",
        "checkpoint_sha256": CHECKPOINT_SHA256,
        "preprocess_sha256": PREPROCESS.digest,
        "packages": [
            {
                "name": source.name,
                "version": source.package.version,
                "sha256": source.package.sha256,
                "licence": source.licence,
                "photographs": sum(item.source == source.name for item in every),
            }
            for source in SOURCES
        ],
        "splits": {
            name: {"photographs": len(items), "sha256": split_digest(items)}
            for name, items in parts.items()
        },
        "fit": {
            "scores": list(head.names),
            "combination": list(fit.choice.combination),
            "candidates": fit.choice.named,
            "ceiling": fit.ceiling,
            "centre": fit.centre_name,
            "shrinkage": fit.shrinkage,
            "rank": fit.rank,
            "criterion": "mean AUROC over kinds of synthetic OOD images, on the fit split",
            "auroc": {
                name: {kind: round(value, 4) for kind, value in row.items()}
                for name, row in fit.table.items()
            },
        },
        "thresholds": {"alpha_reject": ALPHA_REJECT, "alpha_review": ALPHA_REVIEW},
        "witnesses": witness_scores(head, sealed),
    }
