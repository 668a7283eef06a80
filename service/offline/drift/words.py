"""Describe in words what differs between a set and the reference, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.service.drift.recent_images import DISTANCE_LIMIT, P_EDGES, PSI_LIMIT, Z_LIMIT
from tidegate.service.drift.reference import Bins
from tidegate.service.drift.whole_set import FALSE_REPORTS, SetReport
from tidegate.service.drift.words import MAX_NAMED_CLASSES, ClassChange, listed, percent
from tidegate.service.imaging.statistics import MODES
from tidegate.service.offline.drift.report import SetDrift

# Of each histogram: what it measures, and what images are whose values are lower, or higher.
_WORDS = {
    "p-value": ("p-value", "more unusual", "less unusual"),
    "confidence": ("probability", "recognised less surely", "recognised more surely"),
    "brightness": ("brightness", "darker", "brighter"),
    "contrast": ("contrast", "lower in contrast", "higher in contrast"),
    "blur": ("sharpness (log10 of the Laplacian's variance)", "more blurred", "sharper"),
    "megapixels": ("size in megapixels", "smaller", "larger"),
    "aspect": ("width divided by height", "narrower", "wider"),
    "bytes_per_pixel": ("bytes per pixel", "more compressed", "less compressed"),
}  # fmt: skip
_BILLIONTH = 1e-9
_DIRECTION = 0.5  # bins: a smaller difference of the means has no direction
_IN_RUNS = (
    "The images come in runs: {effect:.1f} in a row count as much as one independent image. "
    "Only findings marked as such also hold if that is how the images were taken; if the files are "
    "merely sorted, all of them hold."
)


@dataclass(frozen=True, slots=True)
class SetFinding:
    """One difference."""

    what: str  # rejected-share, class-share, embedding, or the name of a histogram
    text: str
    in_runs: bool  # whether it holds if like images in a row count as one
    classes: tuple[ClassChange, ...] = ()


def findings(drift: SetDrift, labels: Sequence[str]) -> list[SetFinding]:
    """Return the differences, the most telling first."""
    report, sure = drift.independent, drift.in_runs.alarms
    found = []
    if "rejected-share" in report.alarms:
        found.append(SetFinding("rejected-share", _of_rejections(drift), "rejected-share" in sure))
    if "class-share" in report.alarms:
        found.append(_of_classes(report, labels, in_runs="class-share" in sure))
    for name, histogram in report.histograms.items():
        if histogram.alarm:
            text = (
                f"{_of_histogram(drift, name)} (PSI {histogram.shift.psi_excess:.2f} beyond noise, "
                f"limit {PSI_LIMIT}; z = {histogram.shift.z:.0f}, limit {Z_LIMIT:.0f})."
            )
            found.append(SetFinding(name, text, name in sure))
    if report.embedding is not None and report.embedding.alarm:
        shift = report.embedding.shift
        text = (
            "The network sees other features: on average they are "
            f"{shift.distance:.2f} standard deviations of one image away from the reference "
            f"(limit {DISTANCE_LIMIT}; z = {shift.z:.0f}, limit {Z_LIMIT:.0f})."
        )
        found.append(SetFinding("embedding", text, "embedding" in sure))
    return found


def headline(drift: SetDrift, found: Sequence[SetFinding]) -> str:
    """Return the result in one sentence."""
    if not drift.found.images:
        return "There is no image with an answer."
    if not found:
        return "Nothing differs from the reference."
    names = ", ".join(finding.what for finding in found)
    return f"{len(found)} {'thing differs' if len(found) == 1 else 'things differ'}: {names}."


def notices(drift: SetDrift) -> list[str]:
    """Return how far the findings, or their absence, can be relied on."""
    counted, say = drift.found.images, []
    say.append(
        f"If nothing had changed, at most {percent(FALSE_REPORTS)} of reports on independent "
        "images would name anything."
    )
    if drift.near_duplicates:
        say.append(
            f"{drift.near_duplicates:,} of {drift.images:,} images are near-duplicates of another "
            "one, and are not counted."
        )
    if drift.missing:
        names = ", ".join(map(str, drift.missing))
        say.append(f"Of {drift.shards} shards these are missing: {names}.")
    if (effect := drift.effects.classes) >= 2:
        say.append(_IN_RUNS.format(effect=effect))
    if drift.reach.rejected is None:
        say.append(f"{counted:,} images are too few to show any share of rejected images.")
    else:
        say.append(
            f"{counted:,} images would show a rejected share of {percent(drift.reach.rejected)}, "
            f"and a class with three times its share for {drift.reach.tripled:,} of "
            f"{len(drift.reference.class_counts):,} classes."
        )
    unknown = [name for name in _WORDS if name not in drift.independent.histograms]
    unknown += [] if drift.independent.embedding else ["embedding"]
    if unknown and drift.found.images:
        say.append(f"Not compared, because the bundle has no reference: {', '.join(unknown)}.")
    return say


def _of_rejections(drift: SetDrift) -> str:
    shares = drift.independent.rejected
    return (
        f"{percent(float(shares.shares[0]))} of {drift.found.images:,} images are rejected; the "
        f"calibration, of {drift.reference.calibration_samples:,} images, has "
        f"{percent(float(shares.before[0]))} {_by_chance(shares.chance)}."
    )


def _of_classes(report: SetReport, labels: Sequence[str], *, in_runs: bool) -> SetFinding:
    shares = report.classes
    changes = tuple(
        ClassChange(int(c), labels[int(c)], float(shares.before[c]), float(shares.shares[c]))
        for c in shares.moved
    )
    more = len(changes) - MAX_NAMED_CLASSES
    rest = f" and {more:,} more" if more > 0 else ""
    text = f"The predicted classes differ: {listed(changes[:MAX_NAMED_CLASSES])}{rest} "
    text += f"{_by_chance(shares.chance)}."
    return SetFinding("class-share", text, in_runs, changes)


def _by_chance(chance: float) -> str:
    if chance < _BILLIONTH:
        return "(by chance in fewer than one of a billion sets)"
    return f"(by chance in at most one of {1 / chance:,.0f} sets)"


def _of_histogram(drift: SetDrift, name: str) -> str:
    """Return how the values of a histogram differ, without a full stop."""
    if name == "p-value":
        even = np.ones(len(P_EDGES) + 1, np.int64)
        return _differing(name, drift.found.p_values, Bins(P_EDGES, even))
    counts, bins = drift.found.histograms[name], drift.reference.histograms[name]
    return _of_modes(counts, bins) if name == "mode" else _differing(name, counts, bins)


def _differing(name: str, counts: NDArray[np.int64], bins: Bins) -> str:
    what, lower, higher = _WORDS[name]
    places = np.arange(len(counts))
    moved = float(places @ counts / counts.sum() - places @ bins.counts / bins.counts.sum())
    says = f"the median {what} is {_median(counts, bins)}, in the reference "
    says += _median(bins.counts, bins)
    if abs(moved) < _DIRECTION:
        return f"The images vary otherwise than the reference: {says}"
    return f"The images are {lower if moved < 0 else higher}: {says}"


def _of_modes(counts: NDArray[np.int64], bins: Bins) -> str:
    now, before = counts / counts.sum(), bins.counts / bins.counts.sum()
    most = int(np.abs(now - before).argmax())
    name = MODES[most] if most < len(MODES) else "unknown"
    return (
        f"The files have other pixel modes: {percent(float(now[most]))} have {name}, in the "
        f"reference {percent(float(before[most]))}"
    )


def _median(counts: NDArray[np.int64], bins: Bins) -> str:
    """Return the median as text, which the outer bins know from one side only."""
    edges, half = bins.edges, counts.sum() / 2
    place = int(counts.cumsum().searchsorted(half))
    if place == 0:
        return f"below {edges[0]:.3g}"
    if place >= len(edges):
        return f"above {edges[-1]:.3g}"
    low, high = float(edges[place - 1]), float(edges[place])
    within = (half - float(counts[:place].sum())) / float(counts[place])
    value = low + (high - low) * within
    return f"{value:.3g}" if math.isfinite(value) else "unknown"
