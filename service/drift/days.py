"""The ordinary variation of some shares over hours and days, learned from the traffic itself.

Counts of the last 36 hours wait before they are learned, so that a change is noticed first; hours
in which a monitor alarmed are not learned. After 28 days the service has learned enough, and
nothing more is learned: slow drift must not become ordinary.

All counts are of the same columns: the classes, or the rejected images alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.service.drift.share_evidence import MAX_SWING, Baseline, moved_columns, share_evidence

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

WAIT_H = 36  # before an hour is learned
LEARNING_DAYS = 7  # before: every share may swing by MAX_SWING
LEARNED_DAYS = 28
_UNKNOWN_SPREAD = MAX_SWING**2 / 2  # the mean square of a sine of that amplitude
_UPPER = 1.28  # standard errors: spreads are upper limits at 90 %
# Of windows that are not whole days: the part of the square of a daily rhythm that is left, at
# least (sin x / x)², x = π · hours / 24, for 20 to 36 hours.
_PHASE = 1 / 16
_PLACES = WAIT_H + 1
_NONE = -1  # an hour or a day that was not seen yet


@dataclass(frozen=True, slots=True)
class Profile:
    """The usual range of each share at one hour, relative to its mean, [columns] each."""

    lowest: Float64
    highest: Float64


@dataclass(frozen=True, slots=True)
class Variation:
    """How much more a count varies than one of independent images with constant shares."""

    design_effect: float
    spread: float  # the mean square by which a share of 20 to 36 hours differs from its mean


@dataclass(frozen=True, slots=True)
class Comparison:
    """The shares of the last hours compared with a baseline's."""

    evidence: float  # of the most evident column, divided by what is needed
    moved: Int64  # the columns whose share has changed, the most evident first; mostly none
    shares: Float64  # in the last hours, [columns]
    before: Float64
    since: float  # when the first one's change began, as a Unix time; 0 if there is none
    window_h: int  # the number of hours


class Days:
    """Counts per hour of the last hours, and what was learned from the hours before."""

    def __init__(self, columns: int) -> None:
        # Of hour h at h % _PLACES: the hours that wait, and the one that is not over yet.
        self.recent = np.zeros((_PLACES, columns), np.int32)
        self.recent_images = np.zeros(_PLACES, np.int64)
        self.recent_hour = np.full(_PLACES, _NONE, np.int64)
        self.recent_clean = np.ones(_PLACES, bool)
        self.hours = np.zeros((24, columns), np.int64)
        self.hours_images = np.zeros(24, np.int64)
        self.weekdays = np.zeros((7, columns), np.int64)
        self.weekdays_images = np.zeros(7, np.int64)
        self.days = np.zeros((LEARNED_DAYS, columns), np.int64)
        self.days_images = np.zeros(LEARNED_DAYS, np.int64)
        self.day = np.full(LEARNED_DAYS, _NONE, np.int64)

    @property
    def learned_days(self) -> int:
        """Return the number of days from which something was learned."""
        return int((self.day != _NONE).sum())

    @property
    def learned(self) -> bool:
        """Return whether the first week is over."""
        return self.learned_days >= LEARNING_DAYS

    def add(self, counts: Int64, images: int, hour: int, *, clean: bool) -> None:
        """Add images of one hour; `clean` is whether no monitor alarms."""
        place = hour % _PLACES
        if self.recent_hour[place] != hour:
            for old in np.flatnonzero(self.recent_hour < hour - WAIT_H):
                self._learn(int(old))
            self.recent_hour[place] = hour
        self.recent[place] += counts.astype(np.int32)
        self.recent_images[place] += images
        self.recent_clean[place] &= clean

    def _learn(self, place: int) -> None:
        """Learn from an hour that leaves the window, and empty its place."""
        hour = int(self.recent_hour[place])
        if hour != _NONE and self.recent_clean[place]:
            day = hour // 24
            known = np.flatnonzero(self.day == day)
            if len(known) == 0:
                known = np.flatnonzero(self.day == _NONE)
            if len(known):
                counts, images = self.recent[place], self.recent_images[place]
                self.day[known[0]] = day
                for sums, totals, row in (
                    (self.days, self.days_images, int(known[0])),
                    (self.hours, self.hours_images, hour % 24),
                    (self.weekdays, self.weekdays_images, day % 7),
                ):
                    sums[row] += counts
                    totals[row] += images
        self.recent[place] = 0
        self.recent_images[place] = 0
        self.recent_hour[place] = _NONE
        self.recent_clean[place] = True

    def forget_after(self, hour: int) -> None:
        """Empty the hours after `hour`, which came from a clock that was ahead."""
        ahead = self.recent_hour > hour
        self.recent[ahead] = 0
        self.recent_images[ahead] = 0
        self.recent_hour[ahead] = _NONE
        self.recent_clean[ahead] = True

    def baseline(self) -> Baseline:
        """Return the sum of everything that was learned."""
        counts = self.days.sum(axis=0).astype(np.float64)
        return Baseline(counts, float(self.days_images.sum()), self.learned_days)

    def usual_share(self, hour: int) -> float:
        """Return the first column's share over whole days; 0 before one is over."""
        if self.learned:
            known = self.baseline()
            return float(known.counts[0]) / max(known.images, 1.0)
        window = self._window(hour, WAIT_H)
        if int(window.sum()) < 24:
            return 0.0
        return int(self.recent[window, 0].sum()) / max(int(self.recent_images[window].sum()), 1)

    def profile(self, hour: int, design_effect: float) -> Profile:
        """Return the usual range of each share at an hour (since 1970)."""
        if not self.learned:
            columns = self.days.shape[1]
            return Profile(np.full(columns, 1 - MAX_SWING), np.full(columns, 1 + MAX_SWING))
        known = self.baseline()
        share = known.counts / max(known.images, 1)
        ratio, left = np.ones(len(share)), np.zeros(len(share))
        for sums, images, row in (
            (self.hours, self.hours_images, hour % 24),
            (self.weekdays, self.weekdays_images, hour // 24 % 7),
        ):
            spread = _spread(sums, images, share, design_effect)
            expected = np.maximum(images[row] * share, 1e-9)
            # The linear Bayes estimate: noise is not taken for rhythm.
            trust = spread / (spread + design_effect / expected)
            ratio *= 1 + trust * (sums[row] / expected - 1)
            left += spread * (1 - trust)
        tolerance = 2 * np.sqrt(left)
        return Profile(
            np.clip(ratio * (1 - tolerance), 1 - MAX_SWING, 1.0),
            np.clip(ratio * (1 + tolerance), 1.0, 1 + MAX_SWING),
        )

    def variation(self, design_effect: float) -> Variation:
        """Return the ordinary variation of counts of 20 to 36 hours."""
        if not self.learned:
            return Variation(design_effect, _UNKNOWN_SPREAD)
        known = self.baseline()
        share = known.counts / max(known.images, 1)
        by_day = _spread(self.days, self.days_images, share, design_effect)
        by_hour = _spread(self.hours, self.hours_images, share, design_effect)
        return Variation(design_effect, by_day + _PHASE * by_hour)

    def compare(
        self,
        hour: int,
        window_h: int,
        against: Baseline,
        variation: Variation,
        more: float,
        fewer: float,
        *,
        alarmed: bool,
    ) -> Comparison:
        """Compare the shares of the `window_h` hours before `hour` with a baseline's.

        `more` and `fewer` are the evidence that a share needs which has grown or shrunk: if nothing
        changed, each column is returned with a probability of at most exp(−more) + exp(−fewer). If
        `alarmed`, half of the evidence suffices.
        """
        window = self._window(hour, window_h)
        images = float(self.recent_images[window].sum())
        counts = self.recent[window].sum(axis=0).astype(np.float64)
        shares, before = counts / max(images, 1.0), against.counts / max(against.images, 1.0)
        if images == 0 or against.images == 0:
            return Comparison(0.0, np.zeros(0, np.int64), shares, before, 0.0, window_h)
        needed = np.where(shares > before, more, fewer)
        evidence = _weigh(counts, images, window_h, against, variation) / needed
        moved = moved_columns(shares, before, evidence, least=0.5 if alarmed else 1.0)
        since = self._since(window, int(moved[0]), before) if len(moved) else 0.0
        return Comparison(float(evidence.max()), moved, shares, before, since, window_h)

    def window_images(self, hour: int, window_h: int) -> int:
        """Return the number of images in the `window_h` hours before `hour`."""
        return int(self.recent_images[self._window(hour, window_h)].sum())

    def _window(self, hour: int, window_h: int) -> NDArray[np.bool_]:
        """Return the places of the hours before `hour`."""
        return (self.recent_hour >= hour - window_h) & (self.recent_hour < hour)

    def visible(
        self,
        hour: int,
        window_h: int,
        factor: float,
        sealed: Baseline,
        design_effect: float,
        needed: float,
    ) -> int:
        """Return for how many columns a share `factor` times as large would be noticed.

        In the last hours, compared with what was learned or, before that, with `sealed`.
        """
        against = self.baseline() if self.learned else sealed
        images = float(self.window_images(hour, window_h))
        if images == 0:
            return 0
        counts = np.minimum(factor * against.counts / against.images, 1.0) * images
        evidence = _weigh(counts, images, window_h, against, self.variation(design_effect))
        return int((evidence >= needed).sum())

    def _since(self, window: NDArray[np.bool_], column: int, before: Float64) -> float:
        """Return the time from which a change of the column's share fits best."""
        order = np.argsort(self.recent_hour[window])
        hours = self.recent_hour[window][order]
        counts = self.recent[window, column][order][::-1].cumsum()[::-1].astype(np.float64)
        expected = (self.recent_images[window][order][::-1].cumsum()[::-1] * before[column]) + 1e-9
        fit = counts * np.log(np.maximum(counts, 1e-9) / expected) - counts + expected
        return float(hours[int(np.argmax(fit))]) * 3600

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays, for `restore` in another process."""
        return {name: array.copy() for name, array in vars(self).items()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Restore the state of an earlier process."""
        for name, array in vars(self).items():
            array[...] = state[name]


def _weigh(
    counts: Float64, images: float, window_h: int, against: Baseline, variation: Variation
) -> Float64:
    """Return −ln P of each count if nothing changed, in ordinary traffic, [columns].

    Each count is divided by how much more it varies than that of independent images.
    """
    expected = images * (against.counts + 1) / (against.images + 1)
    ordinary = variation.design_effect + variation.spread * expected
    learned: Float64 | float = 1.0
    if against.days:
        in_window = against.counts * window_h / (24 * against.days)
        learned = variation.design_effect + variation.spread * in_window
    return share_evidence(counts / ordinary, images / ordinary, against, learned)


def _spread(sums: Int64, images: Int64, share: Float64, design_effect: float) -> float:
    """Return the mean square of the rows' relative deviations, less what counting causes.

    It is an upper limit at 90 %, common to all columns, and at most that of a swing of MAX_SWING.
    """
    expected = images[:, None] * share
    weight = float((expected**2).sum())
    if weight == 0:
        return _UNKNOWN_SPREAD
    noise = design_effect * expected
    mean = float(((sums - expected) ** 2 - noise).sum()) / weight
    error = math.sqrt(2 * float((noise**2).sum())) / weight
    return min(max(mean, 0.0) + _UPPER * error, _UNKNOWN_SPREAD)
