"""Compare a whole set of images with the reference. Pure; the order of the images is not used.

The monitors watch traffic as it arrives and may alarm after any image. Here all images are there,
and every comparison is made once, so that the same tests need less evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.service.drift.label_shift import LabelShift, label_shift
from tidegate.service.drift.recent_images import (
    compare_features,
    compare_histogram,
    compare_p_values,
)
from tidegate.service.drift.reference import Reference
from tidegate.service.drift.report import EmbeddingFinding, HistogramFinding
from tidegate.service.drift.share_evidence import Baseline, moved_columns, share_evidence

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

FALSE_REPORTS = 0.01  # the share of sets without a change in which a report names one, at most
# Their parts for the rejected share and for the classes. The rest is more than the histograms and
# the features need, whose limits are reached far more rarely.
_REJECTED, _CLASSES = 0.2, 0.7
_FEWER = 0.1  # of the classes' part is for shares that shrink
_SHARES = np.geomspace(1e-4, 1.0, 400)  # tried for what would have been noticed


@dataclass(frozen=True, slots=True)
class SetFeatures:
    """The mean features of the images that were not rejected."""

    images: int
    mean: Float64  # [D]


@dataclass(frozen=True, slots=True)
class ImageSet:
    """What is compared of a set of images."""

    rejected: int
    classes: Int64  # [classes], of the images that were not rejected
    p_values: Int64  # [10], between P_EDGES
    histograms: Mapping[str, Int64]  # confidence, brightness, …; those of the reference
    features: SetFeatures | None  # None without a reference, or without images

    @property
    def images(self) -> int:
        """Return the number of images with a decision."""
        return self.rejected + int(self.classes.sum())


@dataclass(frozen=True, slots=True)
class Effects:
    """Design effects: so many images count as one independent image."""

    rejections: float = 1.0
    classes: float = 1.0
    features: float = 1.0


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of the set compared with the reference's, [columns] each."""

    evidence: float  # of the most evident column, divided by what is needed
    moved: Int64  # the columns that changed, the most evident first
    shares: Float64
    before: Float64
    chance: float = 1.0  # of sets without a change in which some column is as evident, at most


@dataclass(frozen=True, slots=True)
class Reach:
    """The changes that a set of this size would show."""

    rejected: float | None  # the smallest share of rejected images; None: no share
    tripled: int  # classes whose tripled share would be noticed


@dataclass(frozen=True, slots=True)
class SetReport:
    """All comparisons of one set."""

    rejected: Shares  # one column
    classes: Shares
    histograms: Mapping[str, HistogramFinding]  # p-value, confidence, brightness, …
    embedding: EmbeddingFinding | None  # None without a reference
    label_shift: LabelShift | None  # None without a confusion matrix

    @property
    def alarms(self) -> frozenset[str]:
        """Return the names of the comparisons that found a change."""
        alarms = {name for name, found in self.histograms.items() if found.alarm}
        alarms |= {"rejected-share"} if len(self.rejected.moved) else set()
        alarms |= {"class-share"} if len(self.classes.moved) else set()
        if self.embedding is not None and self.embedding.alarm:
            alarms.add("embedding")
        return frozenset(alarms)


def compare(found: ImageSet, reference: Reference, effects: Effects) -> SetReport:
    """Compare a set with the reference."""
    histograms = {"p-value": compare_p_values(found.p_values, reference, effects.rejections)}
    for name, counts in found.histograms.items():
        bins = reference.histograms[name]
        histograms[name] = compare_histogram(counts, bins, effects.classes)
    embedding = None
    if reference.embedding is not None and found.features is not None:
        embedding = compare_features(found.features, reference.embedding, effects.features)
    confusion = reference.confusion
    return SetReport(
        rejected=_shares(
            np.array([found.rejected]), found.images, *_rejections(reference, effects)
        ),
        classes=_shares(found.classes, int(found.classes.sum()), *_classes(reference, effects)),
        histograms=histograms,
        embedding=embedding,
        label_shift=None if confusion is None else label_shift(found.classes, confusion),
    )


def reach(images: int, reference: Reference, effects: Effects) -> Reach:
    """Return what a set of so many images would show."""
    if images == 0:
        return Reach(None, 0)
    baseline, effect, needed, _ = _rejections(reference, effects)
    many = Baseline(np.full(len(_SHARES), baseline.counts[0]), baseline.images)
    found = _shares(_SHARES * images, images, many, effect, needed, math.inf)
    seen = np.sort(found.moved)
    baseline, effect, needed, _ = _classes(reference, effects)
    tripled = np.minimum(3 * baseline.counts / max(baseline.images, 1), 1.0) * images
    shown = _shares(tripled, images, baseline, effect, needed, math.inf).moved
    return Reach(float(_SHARES[seen[0]]) if len(seen) else None, len(shown))


def _rejections(reference: Reference, effects: Effects) -> tuple[Baseline, float, float, float]:
    """Return the baseline, the design effect, and the evidence for more and for fewer."""
    n = reference.calibration_samples
    baseline = Baseline(np.array([reference.alpha_reject * n]), float(n))
    return baseline, effects.rejections, -math.log(FALSE_REPORTS * _REJECTED), math.inf


def _classes(reference: Reference, effects: Effects) -> tuple[Baseline, float, float, float]:
    counts = reference.class_counts
    baseline = Baseline(counts.astype(np.float64), float(counts.sum()))
    part = FALSE_REPORTS * _CLASSES / len(counts)
    more, fewer = -math.log(part * (1 - _FEWER)), -math.log(part * _FEWER)
    return baseline, effects.classes, more, fewer


def _shares(
    counts: NDArray[np.integer] | Float64,
    images: int,
    against: Baseline,
    design_effect: float,
    more: float,
    fewer: float,
) -> Shares:
    """Compare counts of columns; `more` and `fewer` are the evidence that a change needs."""
    before = against.counts / max(against.images, 1.0)
    shares = counts / max(images, 1)
    if images == 0 or against.images == 0:
        return Shares(0.0, np.zeros(0, np.int64), shares, before)
    needed = np.where(shares > before, more, fewer)
    independent = counts / design_effect, images / design_effect
    raw = share_evidence(*independent, against)
    evidence = raw / needed
    moved = moved_columns(shares, before, evidence)
    # Both directions of every column, as in `needed`.
    chance = 2 * len(raw) * math.exp(-float(raw[moved].max(initial=0.0)))
    return Shares(float(evidence.max()), moved, shares, before, min(1.0, chance))
