"""Shares of the last hours: single classes are noticed, rhythms are learned, incidents are not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from tidegate.service.drift.days import LEARNED_DAYS, Days
from tidegate.service.drift.share_evidence import MAX_SWING, Baseline, share_evidence

NEEDED = 15.0
MONDAY = 491_000 // 24 * 24  # an hour since 1970 at which a day begins


def fed(
    days: int,
    shares: NDArray[np.float64],
    images: int = 600,
    swing: float = 0.0,
    clean: bool = True,
    seed: int = 0,
) -> Days:
    rng = np.random.default_rng(seed)
    known = Days(len(shares))
    for hour in range(24 * days):
        feed(known, rng, shares, images, MONDAY + hour, swing, clean=clean)
    return known


def feed(
    known: Days,
    rng: np.random.Generator,
    shares: NDArray[np.float64],
    images: int,
    hour: int,
    swing: float = 0.0,
    clean: bool = True,
) -> None:
    half = len(shares) // 2
    mix = shares.copy()
    mix[:half] *= 1 + swing * np.sin(hour / 24 * 2 * np.pi)
    mix[half:] *= (1 - mix[:half].sum()) / mix[half:].sum()
    known.add(rng.multinomial(images, mix), images, hour, clean=clean)


@pytest.mark.lengthy
def test_one_of_a_thousand_classes_that_triples_is_noticed_within_20_000_images() -> None:
    shares = np.full(1000, 1e-3)
    tripled = shares.copy()
    tripled[7] *= 3
    tripled /= tripled.sum()
    noticed = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        known = fed(21, shares, seed=seed)
        for hour in range(33):  # 19,800 images
            feed(known, rng, tripled, 600, MONDAY + 21 * 24 + hour)
            found = [
                known.compare(
                    MONDAY + 21 * 24 + hour + 1,
                    window_h,
                    known.baseline(),
                    known.variation(1.0),
                    NEEDED,
                    NEEDED,
                    alarmed=False,
                )
                for window_h in (36, 20)
            ]
            moved = [one for one in found if len(one.moved)]
            if moved:
                assert moved[0].moved.tolist() == [7]
                assert moved[0].since >= 3600 * (MONDAY + 20 * 24)
                noticed += 1
                break

    assert noticed >= 15


def test_a_class_that_vanishes_is_noticed_only_if_shrinking_counts() -> None:
    shares = np.full(10, 0.1)
    known, gone = fed(10, shares), np.array([0.0, *[1 / 9] * 9])
    rng = np.random.default_rng(1)
    for hour in range(240, 276):
        feed(known, rng, gone, 600, MONDAY + hour)

    found = [
        known.compare(
            MONDAY + 276,
            36,
            known.baseline(),
            known.variation(1.0),
            NEEDED,
            fewer,
            alarmed=False,
        ).moved.tolist()
        for fewer in (NEEDED, np.inf)
    ]

    assert found == [[0], []]


@pytest.mark.parametrize("swing", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("classes", [10, 300])
@pytest.mark.parametrize("window_h", [20, 36])
def test_a_daily_rhythm_is_no_change(window_h: int, classes: int, swing: float) -> None:
    known = fed(14, np.full(classes, 1 / classes), swing=swing)

    for hour in range(24):
        found = known.compare(
            MONDAY + 14 * 24 - hour,
            window_h,
            known.baseline(),
            known.variation(1.0),
            NEEDED,
            NEEDED,
            alarmed=False,
        )
        assert found.moved.tolist() == []


def test_the_profile_follows_the_hours_that_were_learned() -> None:
    shares = np.full(10, 0.1)
    known = fed(14, shares, swing=0.4)
    up, down = MONDAY + 14 * 24 + 6, MONDAY + 14 * 24 + 18

    high, low = known.profile(up, 1.0), known.profile(down, 1.0)

    assert ((high.lowest[5:] < 0.7) & (high.highest[5:] < 1.05)).all()
    assert (high.highest[:5] > 1.35).all()
    assert (low.lowest[:5] < 0.65).all()
    assert low.highest[:5] == pytest.approx(1.0, abs=0.05)


def test_without_a_rhythm_the_profile_is_narrow_and_in_the_first_week_it_is_wide() -> None:
    shares = np.full(10, 0.1)

    known, young = fed(14, shares), fed(5, shares)

    assert known.profile(MONDAY, 1.0).highest.max() < 1.15
    assert young.profile(MONDAY, 1.0).highest == pytest.approx(1 + MAX_SWING)
    assert young.profile(MONDAY, 1.0).lowest == pytest.approx(1 - MAX_SWING)


def test_a_larger_swing_than_allowed_is_not_learned() -> None:
    known = fed(14, np.full(10, 0.1), swing=0.9)

    assert known.profile(MONDAY + 6, 1.0).highest.max() == 1 + MAX_SWING


def test_hours_with_an_alarm_are_not_learned_and_neither_are_later_than_28_days() -> None:
    shares = np.full(4, 0.25)

    assert fed(10, shares, clean=False).learned_days == 0
    full = fed(40, shares, images=10)
    assert full.learned_days == LEARNED_DAYS
    assert full.baseline().images == LEARNED_DAYS * 240


def test_hours_without_traffic_leave_the_window() -> None:
    known = fed(2, np.full(4, 0.25))

    assert known.window_images(MONDAY + 48, 36) == 36 * 600
    assert known.window_images(MONDAY + 48, 20) == 20 * 600
    assert known.window_images(MONDAY + 48 + 30, 36) == 6 * 600
    known.add(np.array([1, 0, 0, 0]), 1, MONDAY + 500, clean=True)
    assert known.window_images(MONDAY + 501, 36) == 1


@pytest.mark.parametrize("other", [0, 1, 5, 100, 3000])
@pytest.mark.parametrize("images", [500, 20_000])
def test_the_evidence_is_at_most_that_of_the_exact_tail(images: int, other: int) -> None:
    """Given the sum of both counts, the count is binomial, for shares that are small."""
    reference = 100_000
    counts = np.unique(np.geomspace(1, 0.2 * images, 60).astype(np.int64))
    against = Baseline(np.full(len(counts), float(other)), float(reference))
    grown = counts / images > other / reference
    chance = images / (images + reference)

    evidence = share_evidence(counts.astype(np.float64), images, against)

    more = -binom.logsf(counts - 1, counts + other, chance)
    fewer = -binom.logcdf(counts, counts + other, chance)
    exact = np.where(grown, more, fewer)
    assert (evidence <= exact + 1e-6).all()
    useful = (exact > 10) & (exact < 100)
    assert (evidence[useful] >= 0.85 * exact[useful]).all()
