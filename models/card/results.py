"""The sections of a model card on accuracy: results, classes, confusions, calibration."""

from __future__ import annotations

from tidegate.models.card.card_data import CONFUSION, RELIABILITY, CardData
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


def results(data: CardData) -> str:
    """Return the headline numbers with their intervals."""
    found, fit = data.evaluation, data.gate
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
        f"On the test split, {count(found.images, 'image')} not used for fitting or calibration. "
        "Images that the gate rejects are included.\n\n"
        + table(("measure", "value", "95 % interval"), rows)
        + "\nThe interval of accuracy is Wilson's, and that of balanced accuracy combines the "
        "classes' Wilson intervals. The gate's shares have exact beta intervals.\n"
    )


def comparison(data: CardData) -> str:
    """Return the changes against fp32, or an empty string if there is no comparison."""
    found = data.comparison
    if found is None:
        return ""
    rows = [
        ("accuracy", f"{change(found.accuracy_change, 2)} points"),
        ("ECE", change(found.ece_change, 4)),
        ("rejected although in-distribution", _rejection_change(data)),
        *((f"AUROC on {name}, combined", change(by)) for name, by in found.auroc_change.items()),
        ("same top class", f"{percent(found.agreement)} of test images"),
        ("CPU time per image, fp32 divided by this", f"{found.speed:.2f} ×"),
        ("bytes of model.onnx, fp32 divided by this", f"{found.size:.2f} ×"),
    ]
    return (
        f"## {data.precision} against fp32\n\n"
        "Both were fitted, calibrated and evaluated separately, on the same splits.\n\n"
        + table(("measure", "change"), rows)
    )


def _rejection_change(data: CardData) -> str:
    if data.rejected_in_fp32 is None:
        return "not measured"
    change_by = data.evaluation.false_rejection.value - data.rejected_in_fp32
    return f"{change(100 * change_by, 2)} points"


def classes(data: CardData) -> str:
    """Return the table of all classes (the worst, if many), and the most rejected class."""
    reports = data.evaluation.classes
    seen = [report for report in reports if report.images]
    if len(reports) <= EVERY_CLASS_UP_TO:
        shown, which = list(reports), "Every class on the test split."
    else:
        shown = sorted(seen, key=lambda r: (r.recall, -r.images))[:_WORST]
        which = (
            f"The {len(shown)} of {len(reports)} classes with the lowest recall; all classes are "
            "in `manifest.json` under `evaluation.classes`."
        )
    header = ("class", "images", "precision", "recall", "F1", "rejected")
    return (
        "## Classes\n\n" + which + "\n\n"
        + table(header, [_class_row(data, report) for report in shown])
        + "\n"
        + _most_rejected(data, seen)
    )  # fmt: skip


def confusions(data: CardData) -> str:
    """Return the most common mistakes, and the matrix if it is small enough to draw."""
    found = data.evaluation
    mistakes = [pair for pair in found.confusions if pair.actual != pair.predicted]
    mistakes.sort(key=lambda pair: -pair.images)
    rows = [
        (
            data.label(pair.actual),
            data.label(pair.predicted),
            pair.images,
            percent(pair.images / found.classes[pair.actual].images),
        )
        for pair in mistakes[:_MISTAKES]
    ]
    header = ("class", "predicted as", "images", "share of the class")
    text = table(header, rows) if rows else "No test image was misclassified.\n"
    return (
        "## Most common confusions\n\n" + text + picture(data.plots, CONFUSION, "Confusion matrix")
    )


def calibration(data: CardData) -> str:
    """Return the errors of the probabilities before and after scaling, and their meaning."""
    found, fit = data.evaluation, data.calibration
    if fit.fitted:
        how = (
            f"The temperature {fit.temperature:.4g} was fitted on "
            f"{count(fit.samples, 'calibration image')}; it does not change predicted classes."
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
        + "\nECE: the mean gap between confidence and accuracy over bins of equal size.\n"
        "Noise floor: with this many images, the ECE of perfect probabilities is below it in "
        f"95 % of cases.\n{_meaning(found.calibrated)}\n"
        + picture(data.plots, RELIABILITY, "Reliability before and after scaling")
    )


def _class_row(data: CardData, report: ClassReport) -> tuple[object, ...]:
    return (
        data.label(report.class_id),
        report.images,
        number(report.precision),
        number(report.recall),
        number(report.f1),
        percent(report.rejected),
    )


def _most_rejected(data: CardData, seen: list[ClassReport]) -> str:
    worst = max(seen, key=lambda r: (r.rejected or 0.0, r.images))
    if not worst.rejected:
        return "The gate rejects no test image.\n"
    share = beta_share(round(worst.rejected * worst.images), worst.images)
    return (
        f"Most often falsely rejected: {data.label(worst.class_id)}, {measured(share)} of its "
        f"{count(worst.images, 'image')}.\n"
        f"As the worst of {count(len(seen), 'class', 'classes')}, its rate is partly chance.\n"
    )


def _meaning(after: Probabilities) -> str:
    if after.ece <= after.ece_noise_floor:
        return "After scaling, the ECE is not above the floor: these images show no miscalibration."
    return (
        "After scaling, the ECE is above the floor: chance alone does not explain the error of the "
        "probabilities."
    )
