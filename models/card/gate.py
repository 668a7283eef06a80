"""The sections of a model card on the gate: its target, OOD sets, and what stays unknown."""

from __future__ import annotations

from tidegate.models.card.facts import AUROC, SCORES, CardData
from tidegate.models.card.markdown import count, measured, number, percent, picture, table
from tidegate.service.bundle.evidence import OodReport

_FEW = 20  # images below which a class's own numbers say little


def gate(facts: CardData) -> str:
    """Return what the gate is, what it promises to whom, and what was measured of it."""
    fit, found = facts.gate, facts.evaluation.false_rejection
    distance = fit.mahalanobis
    shrunk = "" if distance.shrinkage is None else f", shrunk by {distance.shrinkage:.3g}"
    relative = ", less the distance to all images together" if distance.relative else ""
    size = f", fitted on {count(distance.samples, 'image')}" if distance.samples else ""
    return (
        "## Gate\n\n"
        f"- Energy: −T·logsumexp(logits/T) with T = {fit.energy_temperature:.4g}.\n"
        f"- Mahalanobis: squared distance of {distance.features} features to the nearest of the "
        f"{distance.means.replace('-', ' ')} under a {distance.covariance} "
        f"covariance{shrunk}{relative}{size}.\n"
        f"- Both become p-values against fold A ({count(fit.fold_a, 'image')}); their minimum is "
        f"calibrated again on fold B ({count(fit.fold_b, 'image')}).\n"
        f"- p ≤ {fit.alpha_reject:g} (alpha_reject) rejects; p ≤ {fit.alpha_review:g} "
        "(alpha_review) answers and marks for review.\n\n"
        f"{_promise(facts)}\n"
        "For images of another kind nothing is promised: the sets below show what was measured.\n"
        f"\nMeasured on the test split: {measured(found)} rejected.\n{_verdict(facts)}\n"
    )


def ood(facts: CardData) -> str:
    """Return what each score makes of each OOD set, and what the gate does with it."""
    sets = facts.evaluation.ood
    if not sets:
        return (
            "## OOD sets\n\n"
            "None was given: how well the gate catches images of another kind was not measured.\n"
        )
    header = ("set", "score", "AUROC", "FPR95 in", "FPR95 out")
    rows = [
        (report.name, score, number(s.auroc), number(s.fpr95_keeping_inside),
         number(s.fpr95_catching_outside))
        for report in sets
        for score, s in report.separation.items()
    ]  # fmt: skip
    decided = [(r.name, f"{r.images:,}", measured(r.rejected), measured(r.reviewed)) for r in sets]
    return (
        "## OOD sets\n\n"
        "What the gate does with images that it should refuse, with Wilson intervals:\n\n"
        + table(("set", "images", "rejected", "marked for review"), decided)
        + "\nHow well each score tells a set from the test split, at any threshold:\n\n"
        + table(header, rows)
        + "\nAUROC: the chance that an image of the set scores above one of the test split; 0.5 "
        "tells nothing apart, below it the score takes the set for more usual.\n"
        "FPR95 in: the share of the set let in when 95 % of the test split is.\n"
        "FPR95 out: the share of the test split refused when 95 % of the set is.\n"
        + _weakest(sets)
        + picture(facts.plots, AUROC, "AUROC of each score on each OOD set")
        + picture(facts.plots, SCORES, "Scores of the test split and of the OOD sets")
    )


def limits(facts: CardData) -> str:
    """Return what these numbers cannot say."""
    found = facts.evaluation
    unseen = sum(1 for report in found.classes if not report.images)
    few = sum(1 for report in found.classes if 0 < report.images < _FEW)
    lines = [
        f"The numbers hold for images drawn like the {count(found.images, 'test image')}; other "
        "cameras, places or seasons were not measured.",
    ]
    if unseen:
        lines.append(
            f"{count(unseen, 'class has', 'classes have')} no test image: nothing is known of "
            "them, and the means over classes leave them out."
        )
    if few:
        lines.append(
            f"{count(few, 'class has', 'classes have')} fewer than {_FEW} test images: their own "
            "numbers are rough."
        )
    lines.append(
        f"With {count(facts.gate.fold_b, 'image')} in fold B, no p-value is below "
        f"{1 / (facts.gate.fold_b + 1):.2g}."
    )
    if facts.parity is None:
        lines.append("That the preprocessing is the training's was not proved.")
    return "## Limits\n\n" + "".join(f"- {line}\n" for line in lines)


def _promise(facts: CardData) -> str:
    fit = facts.gate
    if fit.guarantee == "marginal":
        text = (
            "For an image drawn like the calibration images, the chance of p ≤ alpha is at most "
            "alpha, on average over calibration sets (marginal)."
        )
    else:
        delta = (
            "" if fit.guarantee_delta is None else f" but for a chance of {fit.guarantee_delta:g}"
        )
        text = (
            "For an image drawn like the calibration images, the chance of p ≤ alpha is at most "
            f"alpha for this very calibration set{delta} (pac)."
        )
    if fit.own_threshold:
        text += (
            f"\n{count(len(fit.own_threshold), 'class has', 'classes have')} a threshold from "
            "calibration images predicted as that class, and the promise holds within each."
        )
    return text


def _verdict(facts: CardData) -> str:
    alpha, found = facts.gate.alpha_reject, facts.evaluation.false_rejection
    if alpha < found.low:
        return (
            f"That is **more than alpha_reject, {percent(alpha)}**: the test split is not drawn "
            "like the calibration images, or this calibration set misleads."
        )
    if alpha > found.high:
        return f"That is less than alpha_reject, {percent(alpha)}: the gate is cautious here."
    return f"alpha_reject, {percent(alpha)}, lies in that interval."


def _weakest(sets: tuple[OodReport, ...]) -> str:
    worst = min(sets, key=lambda report: report.rejected.value)
    return f"The set that passes the most: {worst.name}, {measured(worst.rejected)} rejected.\n"
