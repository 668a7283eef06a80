"""The e-detectors keep their guarantee without a change, and react quickly to a change."""

from __future__ import annotations

from statistics import mean, median
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta, binom

from tidegate.service.drift.sequential import MixDetector, RateDetector, rate_limit, share_limits

RUN_LENGTH = 1_000_000.0
MOST = 20_000


def run_until_alarm(detector: RateDetector | MixDetector, images: NDArray[Any]) -> int:
    for index, image in enumerate(images.tolist()):
        if isinstance(detector, RateDetector):
            detector.observe(hit=image)
        else:
            detector.observe(image)
        if detector.alarm:
            return index + 1
    return len(images)


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_at_its_limit_a_rate_has_the_declared_mean_run_length(rate: float) -> None:
    rng = np.random.default_rng(1)

    runs = [run_until_alarm(RateDetector(rate, 100), rng.random(MOST) < rate) for _ in range(200)]

    assert mean(runs) >= 100


def test_at_its_reference_a_mix_has_the_declared_mean_run_length() -> None:
    rng = np.random.default_rng(2)
    shares = np.array([0.5, 0.3, 0.15, 0.05])

    runs = [
        run_until_alarm(MixDetector(shares, shares, 100), rng.choice(4, MOST, p=shares))
        for _ in range(200)
    ]

    assert mean(runs) >= 100


def test_no_alarm_in_two_hundred_thousand_usual_images() -> None:
    rng = np.random.default_rng(3)
    detector = RateDetector(rate_limit(0.01, 5000), RUN_LENGTH)

    run_until_alarm(detector, rng.random(200_000) < 0.01)

    assert not detector.alarm


@pytest.mark.parametrize(("rate", "within"), [(0.05, 400), (0.20, 50)])
def test_a_raised_rate_is_noticed_soon(rate: float, within: int) -> None:
    rng = np.random.default_rng(4)
    delays = []
    for _ in range(31):
        detector = RateDetector(rate_limit(0.01, 5000), RUN_LENGTH)
        run_until_alarm(detector, rng.random(1000) < 0.01)
        delays.append(run_until_alarm(detector, rng.random(MOST) < rate))

    assert median(delays) <= within


@pytest.mark.parametrize(("classes", "samples"), [(10, 5000), (1000, 5000)])
def test_a_fifth_of_the_mass_moved_to_one_class_is_noticed(classes: int, samples: int) -> None:
    rng = np.random.default_rng(5)
    delays = []
    for _ in range(11):
        detector = MixDetector(*share_limits([1 / classes] * classes, samples), RUN_LENGTH)
        assert run_until_alarm(detector, rng.integers(0, classes, 1000)) == 1000
        moved = np.where(rng.random(MOST) < 0.2, 0, rng.integers(0, classes, MOST))
        delays.append(run_until_alarm(detector, moved))

    assert median(delays) <= 400


def test_a_class_that_vanishes_is_noticed() -> None:
    rng = np.random.default_rng(6)
    detector = MixDetector(*share_limits([0.1] * 10, 5000), RUN_LENGTH)

    assert run_until_alarm(detector, rng.integers(1, 10, MOST)) < 1000


def test_an_alarm_persists_while_the_mix_differs() -> None:
    rng = np.random.default_rng(7)
    detector = MixDetector(*share_limits([0.1] * 10, 4000), RUN_LENGTH)
    run_until_alarm(detector, rng.integers(0, 4, MOST))

    for class_id in rng.integers(0, 4, 3000).tolist():
        detector.observe(class_id)
        assert detector.alarm


def test_an_alarm_ends_when_images_are_usual_again() -> None:
    detector = RateDetector(0.012, RUN_LENGTH)
    began = run_until_alarm(detector, np.ones(1000, bool))
    for _ in range(1000):
        detector.observe(hit=True)
    at_most = detector.evidence.statistic
    for _ in range(3000):  # the mildest alternative differs little from usual
        detector.observe(hit=False)

    assert began < 20
    assert at_most <= 6 * 20 * RUN_LENGTH * (1 + 1e-9)  # six alternatives
    assert not detector.alarm


@pytest.mark.parametrize(("alpha", "n"), [(0.01, 200), (0.01, 5000), (0.05, 999), (0.2, 4)])
def test_the_rate_limit_is_the_quantile_of_vovks_beta(alpha: float, n: int) -> None:
    k = int(alpha * (n + 1) + 1e-9)

    assert rate_limit(alpha, n) == pytest.approx(max(alpha, beta.ppf(0.95, k, n + 1 - k)), rel=1e-6)


def test_share_limits_are_clopper_and_pearsons() -> None:
    lower, upper = share_limits([0.2, 0.5, 0.3], 50)

    tail = 0.05 / 6
    for c, count in enumerate((10, 25, 15)):
        assert binom.sf(count - 1, 50, lower[c]) == pytest.approx(tail, rel=1e-6)
        assert binom.cdf(count, 50, upper[c]) == pytest.approx(tail, rel=1e-6)


def test_shares_of_none_and_of_all_have_limits_inside() -> None:
    lower, upper = share_limits([0.0, 1.0], 20)

    assert 0 < lower[0] < upper[0] < 1
    assert 0 < lower[1] < upper[1] < 1
