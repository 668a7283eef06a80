"""Describe what changed, since when, how sure that is, and what could not have been noticed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from tidegate.service.drift.dependence import MAX_DESIGN_EFFECT
from tidegate.service.drift.report import Report
from tidegate.service.drift.shares import LONGEST_H

MAX_NAMED_CLASSES = 5  # in a sentence


@dataclass(frozen=True, slots=True)
class ClassChange:
    """A class whose share has changed."""

    class_id: int
    label: str
    before: float  # share of the reference, or of the days that were learned
    now: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One monitor's alarm."""

    monitor: str
    text: str
    since: str | None  # ISO 8601, UTC; None if the monitor cannot say
    ends_after: int | None  # images without further evidence; None if hours decide
    classes: tuple[ClassChange, ...] = ()


def findings(report: Report, labels: Sequence[str]) -> list[Finding]:
    """Return one finding for each alarm."""
    found = [_of_detector(report, name, labels) for name, e in report.detectors.items() if e.alarm]
    found += [_of_shares(report, name, labels) for name, s in report.shares.items() if s.alarm]
    for name, histogram in report.histograms.items():
        if histogram.alarm:
            found.append(
                Finding(
                    name,
                    f"The distribution of {name} over the last {histogram.images:,} images differs "
                    f"from the reference: by {histogram.shift.psi_excess:.2f} (PSI beyond noise, "
                    f"limit 0.1), z = {histogram.shift.z:.1f} (limit 5).",
                    None,
                    histogram.images,
                )
            )
    if (moved := report.embedding) is not None and moved.alarm:
        text = (
            f"The mean features of the last {moved.images:,} images are "
            f"{moved.shift.distance:.2f} standard deviations of one image away from the reference "
            f"(limit 0.5), z = {moved.shift.z:.1f} (limit 5)."
        )
        found.append(Finding("embedding", text, None, moved.images))
    return found


def outlook(report: Report, labels: Sequence[str]) -> list[str]:
    """Return which changes could have been noticed by now, and which could not."""
    say = []
    reach = report.reach
    for rate, images in reach.rejections:
        say.append(f"A rejected share of {percent(rate)} {_by(images, reach.counted)}")
    say.append(
        f"A fifth of the images in one class ({labels[reach.typical_class]}) "
        f"{_by(reach.fifth, reach.counted)}"
    )
    total = len(labels)
    say.append(
        f"With the {reach.window_images:,} images of the last {LONGEST_H} hours, a class with "
        f"three times its share would be noticed for {reach.tripled:,} of {total:,} classes."
    )
    learned = report.learned
    if learned.days < 7:
        say.append(
            f"The monitors have learned from {learned.days} of 7 days. Until then every share may "
            "vary by half within a day."
        )
    for what, effect in (
        ("Rejections", learned.ood_design_effect),
        ("Predicted classes", learned.class_design_effect),
    ):
        if effect >= MAX_DESIGN_EFFECT:
            say.append(
                f"{what} come in longer runs than can be taken into account ({effect:.0f} similar "
                "images): their alarms may be false."
            )
        elif effect > 1:
            say.append(
                f"{what} come in runs: {effect:.1f} images count as much as one independent image, "
                f"so a change is noticed after {effect:.1f} times as many images."
            )
    return say


def _of_detector(report: Report, name: str, labels: Sequence[str]) -> Finding:
    alarm = report.alarm_states[name]
    sure = (
        f"Without a change such an alarm occurs at most once in {report.run_length:,.0f} images on "
        "average."
    )
    since = _utc(alarm.since)
    if name == "ood-rate":
        hits, images = report.recent_rejected
        text = (
            f"{hits} of the last {images} images were rejected, {percent(hits / max(images, 1))}; "
            f"up to {percent(report.rate_limit)} is usual. Since about {since}. {sure}"
        )
        return Finding(name, text, since, alarm.ends_after)
    total = max(int(report.recent_classes.sum()), 1)
    reference = report.reference_counts / report.reference_counts.sum()
    now = report.recent_classes / total
    ids = alarm.classes or tuple(np.argsort(-np.abs(now - reference))[:MAX_NAMED_CLASSES].tolist())
    changes = tuple(
        ClassChange(c, labels[c], float(reference[c]), float(now[c]))
        for c in ids[:MAX_NAMED_CLASSES]
    )
    text = (
        f"The predicted classes differ from the reference, over the last {total:,} predictions: "
        f"{listed(changes)}. Since about {since}. {sure}"
    )
    return Finding(name, text, since, alarm.ends_after, changes)


def _of_shares(report: Report, name: str, labels: Sequence[str]) -> Finding:
    comparison = report.shares[name].comparison
    assert comparison is not None  # noqa: S101 - an alarm has a comparison
    since = _utc(comparison.since)
    sure = (
        f"Without a change such an alarm occurs at most once in {report.run_length:,.0f} images on "
        "average, over all classes together."
    )
    if name == "rejected-share":
        text = (
            f"{percent(float(comparison.shares[0]))} of the images of the last "
            f"{comparison.window_h} hours were rejected, "
            f"{percent(float(comparison.before[0]))} before. Since about {since}. {sure}"
        )
        return Finding(name, text, since, None)
    changes = tuple(
        ClassChange(
            int(c), labels[int(c)], float(comparison.before[c]), float(comparison.shares[c])
        )
        for c in comparison.moved
    )
    more = len(changes) - MAX_NAMED_CLASSES
    rest = f" and {more:,} more" if more > 0 else ""
    text = (
        f"Shares of single classes have changed over the last {comparison.window_h} hours: "
        f"{listed(changes[:MAX_NAMED_CLASSES])}{rest}. Since about {since}. {sure}"
    )
    return Finding(name, text, since, None, changes[:MAX_NAMED_CLASSES])


def listed(changes: Sequence[ClassChange]) -> str:
    """Return classes with both shares, in words."""
    return ", ".join(
        f"{one.label} ({one.class_id}) from {percent(one.before)} to {percent(one.now)}"
        for one in changes
    )


def _by(images: float, counted: int) -> str:
    if math.isinf(images):
        return "is not noticed by the sequential monitors, whatever the number of images."
    seen = "would be noticed" if counted >= images else "could not have been noticed yet: it is"
    return f"{seen} after about {images:,.0f} images{'' if counted >= images else ', on average'}."


def percent(share: float) -> str:
    """Return a share in percent, with three digits."""
    return f"{100 * share:.3g} %"


def _utc(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
