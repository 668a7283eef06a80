"""The sections of a model card on the gate: its guarantee, OOD sets, and limits."""

from __future__ import annotations

from tidegate.models.card.card_data import AUROC, SCORES, CardData
from tidegate.models.card.markdown import count, measured, number, picture, table
from tidegate.models.evaluation.expected_share import Range
from tidegate.service.bundle.evidence import OodReport
from tidegate.service.bundle.manifest import GateFit

_MOST_NAMED = 50  # classes in a table
_MOST_CANDIDATES = 10
_MEANINGS = {
    "entropy": "generalised entropy of the largest probabilities (GEN)",
    "clipped_energy": "energy of the logits for features clipped at a ceiling (ReAct)",
    "drawn": "linear detector of documents, screens, charts and drawings, fitted on generated ones",
}
_FEW = 20  # images, below which a class's numbers are unreliable


def gate(data: CardData) -> str:
    """Return the section on the gate: its scores, its guarantee and its measured rates."""
    fit, found = data.gate, data.evaluation
    distance = fit.mahalanobis
    shrunk = "" if distance.shrinkage is None else f", shrunk by {distance.shrinkage:.3g}"
    rank = "" if distance.rank is None else f" of rank {distance.rank}"
    relative = ", minus the distance to all images as one class" if distance.relative else ""
    size = f", fitted on {count(distance.samples, 'image')}" if distance.samples else ""
    return (
        "## Gate\n\n"
        f"- energy: −T·logsumexp(logits/T) with T = {fit.energy_temperature:.4g}.\n"
        f"- mahalanobis: squared distance of {distance.features} features to the nearest of the "
        f"{distance.means.replace('-', ' ')} under a {distance.covariance} "
        f"covariance{rank}{shrunk}{relative}{size}.\n"
        f"{_others(fit)}"
        f"- Each becomes a p-value against fold A ({count(fit.fold_a, 'image')}), continued by a "
        f"fitted tail. **{' + '.join(fit.combination)}** decide: the sum of their −log p is "
        f"calibrated again on fold B ({count(fit.fold_b, 'image')}).\n"
        f"- p ≤ {fit.alpha_reject:g} (alpha_reject): rejected; p ≤ {fit.alpha_review:g} "
        "(alpha_review): answered and marked for review.\n\n"
        f"{_guarantee(data)}\n"
        "There is no guarantee for other images; the OOD sets below show measured rates.\n"
        f"\nMeasured on the test split: {measured(found.false_rejection)} rejected, "
        f"{measured(found.false_review)} marked for review.\n{_verdict(data)}\n" + _choice(fit)
    )


def _others(fit: GateFit) -> str:
    return "".join(f"- {name}: {_MEANINGS[name]}.\n" for name in fit.scores if name in _MEANINGS)


def _choice(fit: GateFit) -> str:
    if not fit.candidates:
        return ""
    order = sorted(fit.candidates, key=lambda name: -fit.candidates[name])[:_MOST_CANDIDATES]
    return (
        "\n### How the scores were chosen\n\n"
        "The criterion is the mean of two AUROCs on the selection images: against "
        "synthetic OOD images, and against images whose class was removed from the model. A "
        "further score must improve it by 0.002. The best candidates:\n\n"
        + table(("scores", "criterion"), [(n, f"{fit.candidates[n]:.4f}") for n in order])
    )


def ood(data: CardData) -> str:
    """Return the section on the OOD sets: how scores separate them, and the gate's decisions."""
    sets = data.evaluation.ood
    if not sets:
        return (
            "## OOD sets\n\nNo OOD set was given: the gate was measured only on the images of the "
            "section above.\n"
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
        "The gate's decisions on images that it should reject, with Wilson intervals:\n\n"
        + table(("set", "images", "rejected", "marked for review"), decided)
        + "\nHow well each score separates a set from the test split, over all thresholds:\n\n"
        + table(header, rows)
        + "\nAUROC: the probability that an image of the set scores above one of the test split. "
        "0.5 means no separation; below 0.5, the score ranks the set as less unusual.\n"
        "FPR95 in: the share of the set that is accepted if 95 % of the test split is.\n"
        "FPR95 out: the share of the test split that is rejected if 95 % of the set is.\n"
        + _weakest(sets)
        + picture(data.plots, AUROC, "AUROC of each score on each OOD set")
        + picture(data.plots, SCORES, "Scores of the test split and of the OOD sets")
    )


def limits(data: CardData) -> str:
    """Return the section on the limits of these numbers."""
    found = data.evaluation
    unseen = sum(1 for report in found.classes if not report.images)
    few = sum(1 for report in found.classes if 0 < report.images < _FEW)
    lines = [
        "The numbers are valid for images from the same distribution as the "
        f"{count(found.images, 'test image')}; other cameras, places or seasons were not measured.",
    ]
    if unseen:
        lines.append(
            f"{count(unseen, 'class has', 'classes have')} no test image; the means over classes "
            "leave them out."
        )
    if few:
        lines.append(
            f"{count(few, 'class has', 'classes have')} fewer than {_FEW} test images: their "
            "numbers are imprecise."
        )
    lines.append(
        f"With {count(data.gate.fold_b, 'image')} in fold B, no p-value is below "
        f"{1 / (data.gate.fold_b + 1):.2g}."
    )
    if data.parity is None:
        lines.append("The preprocessing was not proved to equal that of the training.")
    return "## Limits\n\n" + "".join(f"- {line}\n" for line in lines)


def _guarantee(data: CardData) -> str:
    fit = data.gate
    if fit.guarantee == "marginal":
        text = (
            "For an image from the same distribution as the calibration images, P(p ≤ alpha) is at "
            "most alpha, on average over calibration sets (marginal)."
        )
    else:
        delta = (
            ""
            if fit.guarantee_delta is None
            else f", except with probability {fit.guarantee_delta:g}"
        )
        text = (
            "For an image from the same distribution as the calibration images, P(p ≤ alpha) is at "
            f"most alpha for this calibration set{delta} (pac)."
        )
    if fit.own_threshold:
        text += (
            f"\n{count(len(fit.own_threshold), 'class has', 'classes have')} a threshold from "
            "calibration images predicted as that class; the guarantee applies to each of them."
        )
    return text + _sharing(data)


def _sharing(data: CardData) -> str:
    """Name the classes without a threshold of their own, and the images that they lack."""
    missing = data.gate.missing_images
    sharing = sorted((images, c) for c, images in enumerate(missing) if images)
    if not sharing:
        return ""
    rows = [(data.label(c), f"{images:,}") for images, c in sharing[:_MOST_NAMED]]
    more = f", the first {_MOST_NAMED} of them" if len(sharing) > _MOST_NAMED else ""
    return (
        f"\n{count(len(sharing), 'class shares', 'classes share')} one threshold: the guarantee "
        "applies to their images together, and a single class may be rejected more often. For a "
        f"threshold of its own, a class lacks about so many calibration images{more} (all: "
        "`gate.missing_images` of the manifest):\n\n" + table(("class", "images"), rows)
    )


def _verdict(data: CardData) -> str:
    """Compare the measured shares with what chance explains."""
    found, expected = data.evaluation, data.expected
    text = (
        f"The calibration set is a sample as well. If {count(data.gate.fold_b, 'image')} of fold B "
        f"and {count(found.images, 'test image')} have the same distribution, "
        f"{_range(expected.rejected)} are rejected and {_range(expected.reviewed)} are marked for "
        "review, each in 95 % of cases."
    )
    shares = (
        ("rejected", found.false_rejection.value, expected.rejected),
        ("marked for review", found.false_review.value, expected.reviewed),
    )
    for what, share, usual in shares:
        if share > usual.high:
            text += (
                f" **More are {what} than that**: the test split has another distribution than the "
                "calibration images, or has groups of similar images."
            )
        elif share < usual.low:
            text += f" Fewer are {what} than that: the gate is conservative here."
    return text


def _range(found: Range) -> str:
    return f"{100 * found.low:.2f} to {100 * found.high:.2f} %"


def _weakest(sets: tuple[OodReport, ...]) -> str:
    worst = min(sets, key=lambda report: report.rejected.value)
    return f"The set that is rejected least: {worst.name}, {measured(worst.rejected)} rejected.\n"
