"""Compute a bundle's Evaluation on images on which nothing was fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.models.errors import BuildRefused
from tidegate.models.evaluation import probabilities
from tidegate.models.evaluation.intervals import beta_share, mean_share, wilson_share
from tidegate.models.evaluation.ood_metrics import (
    auroc,
    fpr95_catching_outside,
    fpr95_keeping_inside,
)
from tidegate.service.bundle.evidence import (
    ALL_CONFUSIONS_UP_TO,
    ClassReport,
    Confusion,
    Evaluation,
    OodReport,
    Separation,
    Share,
)

Float64 = NDArray[np.float64]
ClassIds = NDArray[np.int64]

COMBINED = "combined"


@dataclass(frozen=True, slots=True)
class Scored:
    """The sealed graph's and the gate's outputs for one set; arrays may be memory-mapped."""

    logits: NDArray[np.float32]  # [n, classes], read in chunks
    scores: Mapping[str, Float64]  # the gate's scores, each [n]
    combined: Float64  # [n], the combined score, by fold A
    p_value: Float64  # [n], the final one
    class_ids: ClassIds | None  # [n], the true classes; None for an OOD set

    @property
    def every_score(self) -> dict[str, Float64]:
        """Return the scores and COMBINED, each [n]; higher is more unusual."""
        return {**self.scores, COMBINED: self.combined}


def evaluate(
    test: Scored,
    ood: Mapping[str, Scored],
    *,
    classes: int,
    temperature: float,
    alpha_reject: float,
    alpha_review: float,
) -> Evaluation:
    """Return the evaluation on the test split and the OOD sets.

    Balanced accuracy and macro F1 are unweighted means over the classes in the test split. A class
    without test images is left out of both; undefined values in its report are None. The F1 of a
    class that is never predicted counts as 0.
    Intervals are at 95 %: Wilson's for accuracy and OOD shares, the exact beta interval for false
    rejection and review, and intervals.mean_share for balanced accuracy.

    Raises BuildRefused if the numbers would be meaningless: no test images, fewer than two classes
    among them, an empty OOD set, class ids out of range, or logits or scores that are not finite.
    """
    truth = _checked(test, ood, classes)
    before = probabilities.score_predictions(test.logits, truth, 1.0)
    after = probabilities.score_predictions(test.logits, truth, temperature)
    predicted, n = after.predicted, len(truth)
    rejected = test.p_value <= alpha_reject
    reviewed = (test.p_value <= alpha_review) & ~rejected
    support = np.bincount(truth, minlength=classes)
    right = np.bincount(truth[predicted == truth], minlength=classes)
    present = support > 0
    reports = _class_reports(truth, predicted, rejected, classes)
    return Evaluation(
        images=n,
        accuracy=wilson_share(int(right.sum()), n),
        balanced_accuracy=mean_share(right[present], support[present]),
        macro_f1=float(np.mean([report.f1 for report in reports if report.f1 is not None])),
        uncalibrated=probabilities.measured(before, truth, 1.0),
        calibrated=probabilities.measured(after, truth, temperature),
        false_rejection=beta_share(int(rejected.sum()), n),
        false_review=beta_share(int(reviewed.sum()), n),
        classes=reports,
        confusions=_confusions(truth, predicted, classes),
        ood=tuple(
            _ood_report(name, test, outside, alpha_reject, alpha_review)
            for name, outside in ood.items()
        ),
    )


def _class_reports(
    truth: ClassIds, predicted: ClassIds, rejected: NDArray[np.bool_], classes: int
) -> tuple[ClassReport, ...]:
    support = np.bincount(truth, minlength=classes)
    named = np.bincount(predicted, minlength=classes)
    right = np.bincount(truth[predicted == truth], minlength=classes)
    turned_away = np.bincount(truth[rejected], minlength=classes)
    return tuple(
        ClassReport(
            class_id=c,
            images=int(support[c]),
            precision=_ratio(right[c], named[c]),
            recall=_ratio(right[c], support[c]),
            f1=_ratio(2 * right[c], support[c] + named[c]) if support[c] else None,
            rejected=_ratio(turned_away[c], support[c]),
        )
        for c in range(classes)
    )


def _confusions(truth: ClassIds, predicted: ClassIds, classes: int) -> tuple[Confusion, ...]:
    """Return (actual, predicted) pairs with counts; sparse, as classes² may exceed the images."""
    pairs, counts = np.unique(truth * classes + predicted, return_counts=True)
    actual, named = np.divmod(pairs, classes)
    if classes > ALL_CONFUSIONS_UP_TO:
        mistakes = np.flatnonzero(actual != named)
        kept = mistakes[np.argsort(-counts[mistakes], kind="stable")][:ALL_CONFUSIONS_UP_TO]
    else:
        kept = np.arange(len(pairs))
    return tuple(
        Confusion(actual=int(actual[i]), predicted=int(named[i]), images=int(counts[i]))
        for i in kept
    )


def _ood_report(
    name: str, test: Scored, outside: Scored, alpha_reject: float, alpha_review: float
) -> OodReport:
    p = outside.p_value
    return OodReport(
        name=name,
        images=len(p),
        separation={
            name: _separation(inside, outside.every_score[name])
            for name, inside in test.every_score.items()
        },
        rejected=_share_of(p <= alpha_reject),
        reviewed=_share_of((p > alpha_reject) & (p <= alpha_review)),
    )


def _separation(inside: Float64, outside: Float64) -> Separation:
    return Separation(
        auroc=auroc(inside, outside),
        fpr95_keeping_inside=fpr95_keeping_inside(inside, outside),
        fpr95_catching_outside=fpr95_catching_outside(inside, outside),
    )


def _share_of(which: NDArray[np.bool_]) -> Share:
    return wilson_share(int(which.sum()), len(which))


def _ratio(part: np.integer, whole: np.integer) -> float | None:
    return float(part / whole) if whole else None


def _checked(test: Scored, ood: Mapping[str, Scored], classes: int) -> ClassIds:
    """Validate the sets, and return the test split's true classes."""
    truth = test.class_ids
    if truth is None or not len(truth):
        raise BuildRefused("The test split has no labelled images: put images into class folders.")
    if classes < 2 or test.logits.shape[1] != classes:
        raise BuildRefused(
            f"The model has {test.logits.shape[1]} logits for {classes} classes: an evaluation "
            "needs one logit per class, and at least two classes."
        )
    if truth.min() < 0 or truth.max() >= classes:
        wrong = truth.min() if truth.min() < 0 else truth.max()
        raise BuildRefused(
            f"The test split has class id {wrong}; ids must be from 0 to {classes - 1}."
        )
    if (truth == truth[0]).all():
        raise BuildRefused(
            f"Every test image is of class {truth[0]}: an evaluation needs images of at least two "
            "classes."
        )
    for name, scored in {
        "test split": test,
        **{f"OOD set {n!r}": s for n, s in ood.items()},
    }.items():
        _check_scores(name, scored)
    return truth


def _check_scores(name: str, scored: Scored) -> None:
    if not len(scored.p_value):
        raise BuildRefused(f"The {name} has no images: add some, or remove it.")
    for score, values in scored.every_score.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise BuildRefused(
                f"The {score} score of image {bad[0]} of the {name} is not finite, so the service "
                "could not serve it. Check the checkpoint, or remove the image."
            )
