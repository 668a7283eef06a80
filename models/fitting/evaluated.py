"""Evaluate a fitted model on the test split and the OOD sets, on which nothing was fitted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tidegate.models.data.duplicates import check_pixels_disjoint, nearly_same
from tidegate.models.data.folders import Split, Splits
from tidegate.models.data.outputs import Extracted, ImagesUsed, extract, load_pixels
from tidegate.models.evaluation.evaluate import Scored, evaluate
from tidegate.models.evaluation.expected_share import ExpectedShares
from tidegate.models.evaluation.score_histograms import score_histograms
from tidegate.models.fitting.conformal import combine, final_p_values
from tidegate.models.fitting.coverage import (
    PER_KIND,
    CalibratedHead,
    LabelledOutputs,
    left_out_p_values,
    summarise,
    synthetic_p_values,
)
from tidegate.models.fitting.fit import FittedModel, score_rows
from tidegate.service.bundle.evidence import Coverage, Evaluation
from tidegate.service.bundle.manifest import Calibration, Histogram


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """A fitted model and its measurements."""

    fitted: FittedModel
    evaluation: Evaluation
    expected: ExpectedShares  # of rejected and reviewed test images, if only chance decides
    coverage: Coverage
    test: Split  # the test images that could be decoded
    test_classes: tuple[int, ...]  # their predicted classes
    score_histograms: dict[str, dict[str, Histogram]]  # for the card
    used: ImagesUsed  # by the fit and by the evaluation
    near_duplicates: tuple[str, ...]  # sentences on images that are nearly in two splits

    @property
    def calibration(self) -> Calibration:
        """Return the calibration with its errors on the test split."""
        return self.fitted.calibration.model_copy(
            update={
                "ece_before": self.evaluation.uncalibrated.ece,
                "ece_after": self.evaluation.calibrated.ece,
                "ece_noise_floor": self.evaluation.calibrated.ece_noise_floor,
            }
        )


def evaluate_model(fitted: FittedModel, splits: Splits, scratch: Path) -> EvaluatedModel:
    """Run `fitted` on the test split and the OOD sets; the network's outputs go to `scratch`.

    Raises BuildRefused if the numbers would be meaningless, see `evaluate`.
    """
    test = extract(fitted.graph, splits.test, fitted.spec, scratch)
    ood = {
        name: extract(fitted.graph, split, fitted.spec, scratch)
        for name, split in splits.ood.items()
    }
    for found in (test, *ood.values()):
        check_pixels_disjoint(fitted.seen, found.marked)
    of_test = _scored(test, fitted, labelled=True)
    of_ood = {name: _scored(found, fitted, labelled=False) for name, found in ood.items()}
    evaluation = evaluate(
        of_test,
        of_ood,
        classes=len(fitted.head.means),
        temperature=fitted.calibration.temperature,
        alpha_reject=fitted.gate.alpha_reject,
        alpha_review=fitted.gate.alpha_review,
    )
    held_out = {"test": test, **ood}
    return EvaluatedModel(
        fitted=fitted,
        evaluation=evaluation,
        expected=ExpectedShares.of(fitted.gate, test.predicted),
        coverage=_coverage(fitted, test),
        test=test.split,
        test_classes=tuple(test.predicted.tolist()),
        score_histograms=score_histograms(of_test, of_ood),
        used=fitted.used.and_also(ImagesUsed.of(held_out, held_out)),
        near_duplicates=_near_duplicates(fitted, test),
    )


def _near_duplicates(fitted: FittedModel, test: Extracted) -> tuple[str, ...]:
    train, calibrate = fitted.seen
    found = [nearly_same(train, calibrate), nearly_same(train, test.marked)]
    return tuple(sentence for sentence in found if sentence)


def _coverage(fitted: FittedModel, test: Extracted) -> Coverage:
    measured = CalibratedHead(fitted.head, fitted.gate)
    every = max(1, len(test) // PER_KIND)  # the split is in the order of its classes
    some = test.split.items[::every][:PER_KIND]
    photographs = [load_pixels(item.path, fitted.spec) for item in some]
    synthetic = synthetic_p_values(fitted.graph, fitted.spec, photographs, measured)
    fold_a, fold_b, unseen = (
        LabelledOutputs(found.outputs, found.split.class_ids) for found in (*fitted.folds, test)
    )
    left_out = left_out_p_values(measured, fitted.target, (fold_a, fold_b), unseen)
    return summarise(synthetic, left_out, fitted.gate)


def _scored(found: Extracted, fitted: FittedModel, *, labelled: bool) -> Scored:
    scores, gate = score_rows(fitted.head, found), fitted.gate
    combined = combine(gate.folds_a, gate.combination, scores.values)
    return Scored(
        logits=found.logits,
        scores=scores.values,
        combined=combined,
        p_value=final_p_values(gate, combined, scores.predicted),
        class_ids=found.split.class_ids if labelled else None,
    )
