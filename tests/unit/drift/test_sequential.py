"""The e-detectors keep their promise without a change, and react quickly to a change."""

from __future__ import annotations

from statistics import mean, median
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta, binom

from tidegate.service.drift import sequential
from tidegate.service.drift.sequential import MixDetector, RateDetector, rate_limit, share_limits

RUN_LENGTH = 1_000_000.0
MOST = 20_000


def run_until_alarm(
    detector: RateDetector | MixDetector, images: NDArray[Any], at_once: int = 16
) -> int:
    """Return the image at which the alarm begins, or the number of images."""
    before = detector.alarm.images
    for at in range(0, len(images), at_once):
        some = images[at : at + at_once]
        detector.observe(some, np.arange(at, at + len(some), dtype=np.float64))
        if detector.alarm.on:
            return detector.alarm.confirmed - before
    return len(images)


def in_runs(images: NDArray[Any], run: int) -> NDArray[Any]:
    return np.repeat(images, run)


@pytest.mark.parametrize("run", [1, 5, 30])
@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_at_its_limit_a_rate_alarms_no_more_often_than_declared(rate: float, run: int) -> None:
    """Of 400 times 100 images, at most 100/1000 may alarm, whatever the runs."""
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(400):
        detector = RateDetector(rate, 1000)
        detector.set_null(rate, run)
        alarms += run_until_alarm(detector, in_runs(rng.random(120 // run) < rate, run)) < 120

    assert alarms / 400 <= 0.12 + 0.03  # two standard errors


@pytest.mark.parametrize("run", [1, 5])
def test_at_its_reference_a_mix_alarms_no_more_often_than_declared(run: int) -> None:
    rng = np.random.default_rng(2)
    shares = np.array([0.5, 0.3, 0.15, 0.05])
    alarms = 0
    for _ in range(200):
        detector = MixDetector(shares, shares, 1000)
        detector.set_null(shares, shares, run)
        images = in_runs(rng.choice(4, 120 // run, p=shares), run)
        alarms += run_until_alarm(detector, images) < 120

    assert alarms / 200 <= 0.12 + 0.04


def test_without_the_design_effect_runs_would_alarm() -> None:
    rng = np.random.default_rng(3)
    images = in_runs(rng.random(20_000) < 0.01, 10)

    known, unknown = RateDetector(0.01, RUN_LENGTH), RateDetector(0.01, RUN_LENGTH)
    known.set_null(0.01, 10)

    assert run_until_alarm(known, images, 1000) == len(images)
    assert run_until_alarm(unknown, images, 1000) < len(images)


@pytest.mark.parametrize("at_once", [1, 7, 64, 1000])
def test_an_alarm_does_not_depend_on_how_many_images_come_at_once(at_once: int) -> None:
    rng = np.random.default_rng(4)
    images = rng.random(5000) < 0.03
    detector = RateDetector(0.012, RUN_LENGTH)
    for at in range(0, len(images), at_once):
        some = images[at : at + at_once]
        detector.observe(some, np.arange(at, at + len(some), dtype=np.float64))

    one_by_one = 0.0
    alone = np.zeros(len(detector.r))
    odds = 0.012 / 0.988 * np.array([1.5, 2, 3, 5, 10, 30])
    raised = odds / (1 + odds)
    for image in images[:400]:
        alone = (1 + alone) * np.where(image, raised / 0.012, (1 - raised) / 0.988)
        one_by_one = max(one_by_one, float(alone.mean()))
    fresh = RateDetector(0.012, RUN_LENGTH)
    fresh.observe(images[:400], np.arange(400.0))

    assert fresh.alarm.on == (one_by_one >= RUN_LENGTH)
    if not fresh.alarm.on:
        assert fresh.r == pytest.approx(alone, rel=1e-9)
    assert detector.alarm.images == 5000


@pytest.mark.parametrize("at_once", [1, 5, 32, 500])
def test_a_mix_is_advanced_as_image_by_image(at_once: int) -> None:
    rng = np.random.default_rng(5)
    lower, upper = share_limits(np.array([20, 30, 50, 400]))
    images = rng.choice(4, 300, p=[0.04, 0.06, 0.1, 0.8])
    detector = MixDetector(lower, upper, 1e12)
    for at in range(0, len(images), at_once):
        some = images[at : at + at_once]
        detector.observe(some, np.arange(at, at + len(some), dtype=np.float64))

    limits = np.stack([upper, upper, upper, lower], axis=1)
    odds = limits / (1 - limits) * [2, 4, 16, 1 / 5]
    raised = odds / (1 + odds)
    alone = np.zeros((4, 4))
    for c in images.tolist():
        factor = (1 - raised) / (1 - limits)
        factor[c] = (raised / limits)[c]
        alone = (1 + alone) * factor

    assert detector.r == pytest.approx(alone, rel=1e-9)


@pytest.mark.parametrize("run_length", [1e4, 1e6])
def test_few_classes_alarm_as_many_classes_do(
    monkeypatch: pytest.MonkeyPatch, run_length: float
) -> None:
    """Few classes are advanced 128 images at once, many 16; alarms begin, are confirmed and end."""
    rng = np.random.default_rng(7)
    limits = share_limits(np.full(10, 500))
    mixes = [np.full(10, 0.1), np.array([0.37, *[0.07] * 9])]
    images = np.concatenate([rng.choice(10, 992, p=mixes[part % 2]) for part in range(8)])
    found = []
    for few in (40, 0):
        monkeypatch.setattr(sequential, "_FEW_CLASSES", few)
        detector, states = MixDetector(*limits, run_length), []
        for at in range(0, len(images), 496):
            detector.observe(images[at : at + 496], np.arange(at, at + 496.0))
            states.append([*detector.alarm.state(), *detector.alarm.classes])
        found.append((states, detector.r))

    assert {state[3] for state in found[0][0]} == {0.0, 1.0}
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-9)


def test_new_limits_hold_for_the_images_that_follow() -> None:
    """The powers of each factor are kept for the next images, and belong to the limits."""
    rng = np.random.default_rng(6)
    few_of_many = [np.full(40, 20), np.repeat([35, 5], 20)]  # most classes are not in a chunk
    limits = [share_limits(counts) for counts in few_of_many]
    detector = MixDetector(*limits[0], 1e30)
    alone = np.zeros((40, 4))
    for (lower, upper), effect in zip(limits, (1.0, 3.0), strict=True):
        images = rng.integers(0, 40, 64)
        detector.set_null(lower, upper, effect)
        detector.observe(images, np.arange(64.0))
        bounds = np.stack([upper, upper, upper, lower], axis=1)
        odds = bounds / (1 - bounds) * [2, 4, 16, 1 / 5]
        raised = odds / (1 + odds)
        for c in images.tolist():
            factor = (1 - raised) / (1 - bounds)
            factor[c] = (raised / bounds)[c]
            alone = (1 + alone) * factor ** (1 / effect)

    assert detector.r == pytest.approx(alone, rel=1e-9)


def test_no_alarm_in_two_hundred_thousand_usual_images() -> None:
    rng = np.random.default_rng(3)
    detector = RateDetector(rate_limit(0.01, 5000), RUN_LENGTH)

    run_until_alarm(detector, rng.random(200_000) < 0.01, 1000)

    assert not detector.alarm.on


@pytest.mark.parametrize(("rate", "within"), [(0.05, 400), (0.20, 50)])
def test_a_raised_rate_is_noticed_soon_and_as_soon_as_expected(rate: float, within: int) -> None:
    rng = np.random.default_rng(4)
    delays = []
    detector = RateDetector(rate_limit(0.01, 5000), RUN_LENGTH)
    for _ in range(31):
        detector = RateDetector(rate_limit(0.01, 5000), RUN_LENGTH)
        run_until_alarm(detector, rng.random(1008) < 0.01)
        delays.append(run_until_alarm(detector, rng.random(MOST) < rate))

    assert median(delays) <= within
    assert detector.delay(rate) == pytest.approx(mean(delays), rel=0.35)


def test_the_usual_rate_is_never_expected_to_alarm() -> None:
    assert RateDetector(0.012, RUN_LENGTH).delay(0.01) == float("inf")


@pytest.mark.parametrize(("classes", "samples"), [(10, 5000), (1000, 5000)])
def test_a_fifth_of_the_mass_moved_to_one_class_is_noticed(classes: int, samples: int) -> None:
    rng = np.random.default_rng(5)
    delays = []
    detector = MixDetector(*share_limits(np.full(classes, samples // classes)), RUN_LENGTH)
    for _ in range(11):
        detector = MixDetector(*share_limits(np.full(classes, samples // classes)), RUN_LENGTH)
        assert run_until_alarm(detector, rng.integers(0, classes, 1008)) == 1008
        moved = np.where(rng.random(MOST) < 0.2, 0, rng.integers(0, classes, MOST))
        delays.append(run_until_alarm(detector, moved))
        assert detector.alarm.classes[0] == 0

    assert median(delays) <= 130
    assert detector.delay(0, 0.2 + 0.8 / classes) == pytest.approx(mean(delays), rel=0.35)


def test_a_class_that_vanishes_is_noticed() -> None:
    rng = np.random.default_rng(6)
    detector = MixDetector(*share_limits(np.full(10, 500)), RUN_LENGTH)

    assert run_until_alarm(detector, rng.integers(1, 10, MOST)) < 1000


@pytest.mark.lengthy
@pytest.mark.parametrize("rate", [0.03, 0.05, 0.2])
def test_an_alarm_persists_while_the_rate_is_raised(rate: float) -> None:
    rng = np.random.default_rng(7)
    gone = 0
    for _ in range(20):
        detector = RateDetector(rate_limit(0.01, 1000), RUN_LENGTH)
        run_until_alarm(detector, rng.random(MOST) < rate)
        for _ in range(50):
            detector.observe(rng.random(200) < rate, np.zeros(200))
            gone += not detector.alarm.on

    assert gone <= 10  # of 1000


@pytest.mark.lengthy
@pytest.mark.parametrize("rate", [0.03, 0.05, 0.2, 1.0])
def test_an_alarm_ends_within_its_hold(rate: float) -> None:
    rng = np.random.default_rng(8)
    late = most = 0
    for _ in range(50):
        detector = RateDetector(rate_limit(0.01, 1000), RUN_LENGTH)
        run_until_alarm(detector, rng.random(MOST) < rate)
        for _ in range(10):  # the incident goes on
            detector.observe(rng.random(60) < rate, np.zeros(60))
        most = detector.alarm.hold
        for _ in range(most // 50 + 2):
            detector.observe(rng.random(50) < 0.01, np.zeros(50))
        late += detector.alarm.on

    assert 300 <= most <= 5000
    assert late <= 5  # of 50: usual images confirm an alarm now and then


@pytest.mark.parametrize(("alpha", "n"), [(0.01, 200), (0.01, 5000), (0.05, 999), (0.2, 4)])
def test_the_rate_limit_is_the_quantile_of_vovks_beta(alpha: float, n: int) -> None:
    k = int(alpha * (n + 1) + 1e-9)

    assert rate_limit(alpha, n) == pytest.approx(max(alpha, beta.ppf(0.95, k, n + 1 - k)), rel=1e-6)


def test_share_limits_are_clopper_and_pearsons() -> None:
    lower, upper = share_limits(np.array([10, 25, 15]))

    tail = 0.05 / 6
    for c, count in enumerate((10, 25, 15)):
        assert binom.sf(count - 1, 50, lower[c]) == pytest.approx(tail, rel=1e-6)
        assert binom.cdf(count, 50, upper[c]) == pytest.approx(tail, rel=1e-6)


def test_each_of_many_classes_has_the_limits_of_its_count() -> None:
    """Classes with equal counts share a computation, and references of two sizes share a table."""
    rng = np.random.default_rng(10)
    tail = 0.05 / 2000
    for samples in (3000, 9000):
        counts = rng.multinomial(samples, rng.dirichlet(np.full(1000, 0.5)))
        lower, upper = share_limits(counts)
        some = counts > 0

        assert upper == pytest.approx(beta.ppf(1 - tail, counts + 1, samples - counts), rel=1e-6)
        assert lower[some] == pytest.approx(
            beta.ppf(tail, counts[some], samples - counts[some] + 1), rel=1e-6
        )


def test_limits_are_computed_once_for_each_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service with 10,000 classes starts as fast as one with few."""
    computed = []

    def limits(k: int, n: int, tail: float) -> tuple[float, float]:
        computed.append(k)
        return 0.1 * k, 0.2 * k

    monkeypatch.setattr(sequential, "_limits", limits)

    lower, _ = share_limits(np.repeat([3, 1, 2], 3000))

    assert sorted(computed) == [1, 2, 3]
    assert lower[[0, 3000, 6000]] == pytest.approx([0.3, 0.1, 0.2])


def test_shares_of_none_and_of_all_have_limits_inside() -> None:
    lower, upper = share_limits(np.array([0, 20]))

    assert 0 < lower[0] < upper[0] < 1
    assert 0 < lower[1] < upper[1] < 1


def test_a_class_with_half_of_a_small_reference_keeps_its_count() -> None:
    """A thousand classes must not smooth its limit: 200 of 400 images."""
    counts = np.zeros(1000, np.int64)
    counts[0], counts[1:201] = 200, 1

    _, upper = share_limits(counts)

    assert upper[0] == pytest.approx(beta.ppf(1 - 0.05 / 2000, 201, 200), rel=1e-6)
