"""The drift monitors do not alarm in a month without drift."""

import numpy as np
import pytest

from tests.unit.drift.month import UNCHANGED, Traffic, unchanged
from tidegate.service.drift.embedding import Embedding
from tidegate.service.drift.monitor import Monitor
from tidegate.service.drift.reference import INPUTS, Bins, Reference

CLASSES, WIDTH, SAMPLES = 50, 32, 2000
IMAGES_A_DAY, DAYS, LOOK_EVERY = 5_000, 30, 500
START = 1_767_571_200.0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_month_of_five_thousand_images_a_day_has_no_alarm() -> None:
    """The reference is small and drawn from the same distribution as the traffic."""
    rng = np.random.default_rng(1)
    mix = rng.dirichlet(np.full(CLASSES, 2.0))
    edges = np.linspace(0, 1, 11)[1:-1]
    drawn = rng.multinomial(SAMPLES, mix)
    counted = {
        name: Bins(edges, rng.multinomial(SAMPLES, np.full(10, 0.1)))
        for name in ("confidence", *INPUTS)
    }
    features = rng.standard_normal((SAMPLES, WIDTH))
    axes = np.linalg.inv(np.linalg.cholesky(np.cov(features.T))).T
    monitor = Monitor(
        Reference(
            class_counts=drawn,
            alpha_reject=0.01,
            calibration_samples=1999,
            histograms=counted,
            confusion=None,
            embedding=Embedding(features.mean(axis=0), axes, SAMPLES),
        )
    )
    images = IMAGES_A_DAY * DAYS
    classes, sure = rng.choice(CLASSES, images, p=mix), rng.random(images)
    p_values = rng.integers(1, 2001, images) / 2000

    alarms: set[str] = set()
    for image, (c, confidence, p) in enumerate(
        zip(classes.tolist(), sure.tolist(), p_values.tolist(), strict=True)
    ):
        seen = rng.standard_normal(WIDTH, np.float32)
        monitor.observe(
            c, confidence, p, seen, rejected=p <= 0.01, time=START + image * 86_400 / IMAGES_A_DAY
        )
        if image % 10 == 0:
            values = rng.random(len(INPUTS)).tolist()
            monitor.observe_inputs(dict(zip(INPUTS, values, strict=True)))
        if image % LOOK_EVERY == 0:
            alarms |= monitor.report().alarms

    assert not alarms


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("traffic", UNCHANGED, ids=lambda traffic: traffic.name)
def test_a_month_of_dependent_traffic_has_no_alarm(traffic: Traffic) -> None:
    assert not unchanged(traffic, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [8, 25])
def test_a_rate_near_its_limit_that_swings_by_half_does_not_alarm_every_day(seed: int) -> None:
    """It may once, on the first day, when the service does not know its own rate."""
    found = unchanged(Traffic("daily swings of 50%", daily=0.5), seed)

    assert found.total() <= 1
