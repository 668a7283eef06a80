"""What the monitors of one model report at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.service.drift.alarm import Alarm
from tidegate.service.drift.days import Comparison
from tidegate.service.drift.embedding import EmbeddingShift
from tidegate.service.drift.histograms import Shift
from tidegate.service.drift.label_shift import LabelShift
from tidegate.service.drift.sequential import Evidence


@dataclass(frozen=True, slots=True)
class HistogramFinding:
    """A histogram of recent images compared with its reference."""

    images: int
    shift: Shift
    alarm: bool


@dataclass(frozen=True, slots=True)
class EmbeddingFinding:
    """The mean features of recent images compared with the reference."""

    images: int
    shift: EmbeddingShift
    alarm: bool


@dataclass(frozen=True, slots=True)
class ShareFinding:
    """Shares of the last hours compared with the reference or with what was learned."""

    comparison: Comparison | None  # None before the first hour is over

    @property
    def evidence(self) -> float:
        """Return the evidence divided by what an alarm needs."""
        return 0.0 if self.comparison is None else self.comparison.evidence

    @property
    def alarm(self) -> bool:
        """Return whether a share has changed."""
        return self.comparison is not None and len(self.comparison.moved) > 0


@dataclass(frozen=True, slots=True)
class Learned:
    """What the monitors have learned about ordinary traffic."""

    days: int
    ood_design_effect: float
    class_design_effect: float
    near_duplicates: int


@dataclass(frozen=True, slots=True)
class Reach:
    """Changes that the monitors would notice, with the expected number of images; inf: never."""

    counted: int  # images that the detectors have seen
    rejections: tuple[tuple[float, float], ...]  # (share of rejected images, images)
    typical_class: int  # of the median share
    fifth: float  # images until a fifth of them in the typical class is noticed
    window_images: int  # in the last hours, as many as the longest window of the shares has
    tripled: int  # classes whose tripled share the window would show


@dataclass(frozen=True, slots=True)
class Report:
    """The results of all monitors at one moment."""

    images: int  # observed since the state was created
    detectors: Mapping[str, Evidence]  # ood-rate, class-mix
    alarm_states: Mapping[str, Alarm]  # of the detectors
    shares: Mapping[str, ShareFinding]  # rejected-share, class-share
    histograms: Mapping[str, HistogramFinding]  # p-value, confidence, brightness, …
    embedding: EmbeddingFinding | None  # None if the bundle has no embedding reference
    label_shift: LabelShift | None  # None without a sealed confusion matrix
    expected_accuracy: float | None  # an estimate: the mean probability of the predicted classes
    recent_classes: NDArray[np.int64]  # counts of the last predictions, [classes]
    recent_rejected: tuple[int, int]  # (rejected, all) of the last images
    reference_counts: NDArray[np.int64]  # [classes]
    rate_limit: float  # the highest usual share of rejected images
    run_length: float
    learned: Learned
    reach: Reach

    @property
    def alarms(self) -> frozenset[str]:
        """Return the names of the monitors that alarm."""
        alarms = {name for name, found in self.detectors.items() if found.alarm}
        alarms |= {name for name, share in self.shares.items() if share.alarm}
        alarms |= {name for name, compared in self.histograms.items() if compared.alarm}
        if self.embedding is not None and self.embedding.alarm:
            alarms.add("embedding")
        return frozenset(alarms)
