"""A month of dependent traffic without a change: no drift alert of Prometheus fires."""

import numpy as np
import pytest

from tests.docker.class_mix import dispersion, neighbours, rate_neighbours
from tests.docker.month import TRAFFIC, unchanged
from tests.unit.drift.month import Traffic


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("traffic", TRAFFIC, ids=lambda traffic: traffic.name)
def test_a_month_of_dependent_traffic_has_no_alert(traffic: Traffic) -> None:
    assert not unchanged(traffic, seed=0)


@pytest.mark.parametrize("run", [1, 5, 30])
def test_the_dispersion_of_runs_is_their_length(run: int) -> None:
    rng = np.random.default_rng(run)
    mix = np.full(10, 0.1)
    windows = rng.multinomial(600 // run, mix, 500) * float(run)
    known = [neighbours(a, b) for a, b in zip(windows[1:], windows[:-1], strict=True)]

    assert dispersion(np.array(known), 10) == pytest.approx(run, rel=0.15)


@pytest.mark.parametrize("run", [1, 5, 30])
def test_the_dispersion_of_rejections_in_runs_is_their_length(run: int) -> None:
    rng = np.random.default_rng(run)
    flagged = rng.binomial(600 // run, 0.01, 5000) * float(run)
    pairs = [p for p in np.stack([flagged[1:], flagged[:-1]], axis=1) if p.sum() > 0]
    known = [rate_neighbours(pair, np.array([600.0, 600.0])) for pair in pairs]

    assert np.mean(known) == pytest.approx(run, rel=0.15)
