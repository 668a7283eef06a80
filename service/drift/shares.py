"""Shares of the last hours, compared with the calibration and with what was learned since.

They are the share of rejected images, and each class's share of the answered ones.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tidegate.service.drift.days import Days, Profile
from tidegate.service.drift.reference import Reference
from tidegate.service.drift.report import ShareFinding
from tidegate.service.drift.share_evidence import Baseline
from tidegate.service.drift.state_arrays import State, named, part_of

# Hours that are compared → their part of the budget of false alarms. The longer window sees small
# changes, the shorter one sees those that the longer one dilutes with the hours before.
_WINDOWS = {36: 0.6, 20: 0.4}
LONGEST_H = max(_WINDOWS)
_MOST_AT_ONCE = 1_000  # images between two comparisons, in their budget of false alarms
_LEARNED = 0.8  # of that budget is for the comparison with what was learned, if anything was
_FEWER = 0.1  # of a comparison's budget is for shares that shrink


class Shares:
    """Counts per hour of one model's images, what was learned from them, and the comparisons."""

    def __init__(self, reference: Reference, run_length: float) -> None:
        n, counts = reference.calibration_samples, reference.class_counts
        self._run_length = run_length
        self._rejected, self._classes = Days(1), Days(len(counts))
        self._sealed = {
            "rejected-share": Baseline(np.array([reference.alpha_reject * n]), float(n)),
            "class-share": Baseline(counts.astype(np.float64), float(counts.sum())),
        }
        self.findings = {name: ShareFinding(None) for name in self._sealed}
        self._alarms = dict.fromkeys(self._sealed, False)
        self.new_images = 0  # between the last two comparisons

    @property
    def alarm(self) -> bool:
        """Return whether any share has changed."""
        return any(finding.alarm for finding in self.findings.values())

    @property
    def learned_days(self) -> int:
        """Return the number of days from which something was learned."""
        return self._rejected.learned_days

    def window_images(self, hour: int) -> int:
        """Return how many answered images the LONGEST_H hours before this one had."""
        return self._classes.window_images(hour, LONGEST_H)

    def add(
        self, rejected: int, images: int, class_counts: NDArray[np.int64], hour: int, *, clean: bool
    ) -> None:
        """Count images of one hour; they are learned later if no monitor alarms (`clean`)."""
        self._rejected.add(np.array([rejected]), images, hour, clean=clean)
        self._classes.add(class_counts, int(class_counts.sum()), hour, clean=clean)

    def forget_after(self, hour: int) -> None:
        """Forget the hours after this one: the clock was ahead."""
        self._rejected.forget_after(hour)
        self._classes.forget_after(hour)

    def usual(self, hour: int, ood_effect: float, class_effect: float) -> tuple[Profile, Profile]:
        """Return the usual range of the rejected share and of the classes' at this hour."""
        return (
            self._rejected.profile(hour, ood_effect),
            self._classes.profile(hour, class_effect),
        )

    def usual_rejected(self, hour: int) -> float:
        """Return the usual share of rejected images over whole days; 0 before one is over."""
        return self._rejected.usual_share(hour)

    def compare(self, hour: int, ood_effect: float, class_effect: float) -> None:
        """Compare the hours before this one; the results are in `findings`."""
        for name, days, effect in (
            ("rejected-share", self._rejected, ood_effect),
            ("class-share", self._classes, class_effect),
        ):
            baselines = [(self._sealed[name], 1.0)]
            if days.learned:
                baselines = [(days.baseline(), _LEARNED), (self._sealed[name], 1 - _LEARNED)]
            fewer = _FEWER if name == "class-share" else 0.0
            variation = days.variation(effect)
            found = [
                days.compare(
                    hour,
                    window_h,
                    baseline,
                    variation,
                    self._needed(name, part * weight * (1 - fewer)),
                    self._needed(name, part * weight * fewer),
                    alarmed=self._alarms[name],
                )
                for window_h, part in _WINDOWS.items()
                for baseline, weight in baselines
            ]
            best = max(found, key=lambda one: (len(one.moved) > 0, one.evidence))
            self.findings[name] = ShareFinding(best)
            self._alarms[name] = self.findings[name].alarm

    def visible_classes(self, hour: int, factor: float, class_effect: float) -> int:
        """Return in how many classes a share times `factor` would be noticed."""
        needed = self._needed("class-share", _WINDOWS[LONGEST_H] * _LEARNED * (1 - _FEWER))
        return self._classes.visible(
            hour, LONGEST_H, factor, self._sealed["class-share"], class_effect, needed
        )

    def _needed(self, name: str, weight: float) -> float:
        """Return the evidence that a column of some hours needs for an alarm.

        Each hour may spend its images over the run length, and a comparison `weight` of that.
        """
        if weight == 0:
            return math.inf
        columns = len(self._sealed[name].counts)
        new_images = min(max(self.new_images, 1), _MOST_AT_ONCE)
        return math.log(columns * self._run_length / (new_images * weight))

    def state(self) -> State:
        """Return the state as arrays, without `new_images`."""
        return {
            "share_alarms": np.array(list(self._alarms.values())),
            **named("rejected_days", self._rejected.state()),
            **named("class_days", self._classes.state()),
        }

    def restore(self, state: State, new_images: int) -> None:
        """Restore the state of an earlier process."""
        self._alarms = dict(zip(self._sealed, state["share_alarms"].tolist(), strict=True))
        self._rejected.restore(part_of(state, "rejected_days"))
        self._classes.restore(part_of(state, "class_days"))
        self.new_images = new_images
