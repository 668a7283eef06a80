"""The sections of a model card on right answers: results, classes, confusions, calibration."""

from __future__ import annotations

from tidegate.models.card.facts import CONFUSION, RELIABILITY, CardData
from tidegate.models.card.markdown import (
    UNDEFINED,
    change,
    count,
    interval,
    measured,
    number,
    percent,
    picture,
    table,
)
from tidegate.models.evaluation.intervals import beta_share
from tidegate.service.bundle.evidence import ClassReport, Probabilities

EVERY_CLASS_UP_TO = 100
_WORST = 20
_MISTAKES = 10


def results(facts: CardData) -> str:
    """Return the headline numbers with their intervals."""
    found, fit = facts.evaluation, facts.gate
    rows = [
        ("accuracy", percent(found.accuracy.value), interval(found.accuracy)),
        (
            "balanced accuracy (mean recall)",
            percent(found.balanced_accuracy.value),
            interval(found.balanced_accuracy),
        ),
        ("macro F1", number(found.macro_f1), UNDEFINED),
        (
            f"rejected although in-distribution (alpha_reject {fit.alpha_reject:g})",
            percent(found.false_rejection.value),
            interval(found.false_rejection),
        ),
        (
            f"marked for review although in-distribution (alpha_review {fit.alpha_review:g})",
            percent(found.false_review.value),
            interval(found.false_review),
        ),
    ]
    return (
        "## Results\n\n"
        f"On the test split, {count(found.images, 'image')} that nothing was fitted or calibrated "
        "on; all of them are counted, also those that the gate rejects.\n\n"
        + table(("measure", "value", "95 % interval"), rows)
        + "\nThe interval of accuracy is Wilson's, that of balanced accuracy joins the classes' "
        "Wilson intervals, those of the gate's shares are exact beta intervals.\n"
    )


def comparison(facts: CardData) -> str:
    """Return the change against fp32, or nothing where there is no such comparison."""
    found = facts.comparison
    if found is None:
        return ""
    rows = [
        ("accuracy", f"{change(found.accuracy_change, 2)} points"),
        ("ECE", change(found.ece_change, 4)),
        *((f"AUROC on {name}, combined", change(by)) for name, by in found.auroc_change.items()),
        ("same top class", f"{percent(found.agreement)} of test images"),
        ("CPU time per image, fp32 over this", f"{found.speed:.2f} ×"),
        ("bytes of model.onnx, fp32 over this", f"{found.size:.2f} ×"),
    ]
    return (
        f"## {facts.precision} against fp32\n\n"
        "Both were fitted, calibrated and evaluated alike, each with itself.\n\n"
        + table(("measure", "change"), rows)
    )


def classes(facts: CardData) -> str:
    """Return the table of classes, or of the worst of many, and the worst for rejection."""
    reports = facts.evaluation.classes
    seen = [report for report in reports if report.images]
    if len(reports) <= EVERY_CLASS_UP_TO:
        shown, which = list(reports), "Every class on the test split."
    else:
        shown = sorted(seen, key=lambda r: (r.recall, -r.images))[:_WORST]
        which = (
            f"The {len(shown)} classes of lowest recall of {len(reports)}; every class is in "
            "`manifest.json` under `evaluation.classes`."
        )
    header = ("class", "images", "precision", "recall", "F1", "rejected")
    return (
        "## Classes\n\n" + which + "\n\n"
        + table(header, [_class_row(facts, report) for report in shown])
        + "\n"
        + _most_rejected(facts, seen)
    )  # fmt: skip


def confusions(facts: CardData) -> str:
    """Return the commonest mistakes, and the matrix where it is small enough to draw."""
    found = facts.evaluation
    mistakes = [pair for pair in found.confusions if pair.actual != pair.predicted]
    mistakes.sort(key=lambda pair: -pair.images)
    rows = [
        (
            facts.label(pair.actual),
            facts.label(pair.predicted),
            pair.images,
            percent(pair.images / found.classes[pair.actual].images),
        )
        for pair in mistakes[:_MISTAKES]
    ]
    header = ("class", "taken for", "images", "share of the class")
    text = table(header, rows) if rows else "No test image was misclassified.\n"
    return (
        "## Commonest confusions\n\n" + text + picture(facts.plots, CONFUSION, "Confusion matrix")
    )


def calibration(facts: CardData) -> str:
    """Return how good the probabilities are before and after scaling, and what that means."""
    found, fit = facts.evaluation, facts.calibration
    if fit.fitted:
        how = (
            f"The temperature {fit.temperature:.4g} was fitted on "
            f"{count(fit.samples, 'calibration image')}; it changes no predicted class."
        )
    else:
        how = f"The temperature is {fit.temperature:.4g} and **not fitted**."
    header = ("on the test split", "temperature", "NLL", "Brier", "ECE", "noise floor of the ECE")
    rows = [
        (name, f"{p.temperature:.4g}", number(p.nll, 4), number(p.brier, 4), number(p.ece, 4),
         number(p.ece_noise_floor, 4))
        for name, p in (("before scaling", found.uncalibrated), ("after", found.calibrated))
    ]  # fmt: skip
    return (
        "## Calibration\n\n"
        + f"{how}\n"
        + (f"{fit.note}\n" if fit.note else "")
        + "\n"
        + table(header, rows)
        + "\nECE: the mean gap between confidence and accuracy over bins of equally many images.\n"
        "Its noise floor: what perfect probabilities would stay under 95 % of the time, with as "
        f"many images.\n{_meaning(found.calibrated)}\n"
        + picture(facts.plots, RELIABILITY, "Reliability before and after scaling")
    )


def _class_row(facts: CardData, report: ClassReport) -> tuple[object, ...]:
    return (
        facts.label(report.class_id),
        report.images,
        number(report.precision),
        number(report.recall),
        number(report.f1),
        percent(report.rejected),
    )


def _most_rejected(facts: CardData, seen: list[ClassReport]) -> str:
    worst = max(seen, key=lambda r: (r.rejected or 0.0, r.images))
    if not worst.rejected:
        return "The gate rejects no test image of any class.\n"
    share = beta_share(round(worst.rejected * worst.images), worst.images)
    return (
        f"Falsely rejected the most: {facts.label(worst.class_id)}, {measured(share)} of its "
        f"{count(worst.images, 'image')}.\n"
        f"It is the worst of {count(len(seen), 'class', 'classes')}, so part of that is chance.\n"
    )


def _meaning(after: Probabilities) -> str:
    if after.ece <= after.ece_noise_floor:
        return (
            "After scaling the ECE is at or below the floor: these images show no miscalibration."
        )
    return (
        "After scaling the ECE is above the floor: the probabilities are off by more than chance "
        "explains."
    )
