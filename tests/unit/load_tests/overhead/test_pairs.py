"""The ratio of pairs of windows, with its uncertainty."""

import math

import pytest

from load_tests.generator.loops import Outcome
from load_tests.overhead.beside import ScrapeCost
from load_tests.overhead.pairs import Interval, mean_of, of_cpu, of_latency, of_scrape
from load_tests.overhead.side_by_side import Window


def _window(cpu_ms: float = 1.0, latency_s: float = 0.01) -> Window:
    return Window([Outcome(latency_s, latency_s, 0.0, 200)] * 100, cpu_ms)


def test_a_drift_of_the_machine_cancels_in_every_pair() -> None:
    interval = Interval.of([(1.0, 1.01), (2.0, 2.02), (4.0, 4.04)])

    assert interval.ratio == pytest.approx(1.01)
    assert interval.low == pytest.approx(interval.high)


def test_the_interval_is_students() -> None:
    interval = Interval.of([(1.0, 1.0), (1.0, math.exp(0.02))])

    assert interval.ratio == pytest.approx(math.exp(0.01))
    assert interval.high == pytest.approx(math.exp(0.01 + 12.71 * 0.01), rel=1e-3)


def test_one_pair_has_no_interval() -> None:
    assert Interval.of([(1.0, 1.1)]).low is None
    assert Interval.of_p99([(_window(), _window())]).high is None


def test_turns_of_one_pair_are_one_pair() -> None:
    both = mean_of([_window(1.0), _window(4.0)])

    assert both.cpu_ms == pytest.approx(2.0)
    assert len(both.outcomes) == 200


def test_the_aims_are_judged() -> None:
    cpu = {f.quantity: f for f in of_cpu([(_window(), _window(1.02))] * 2, 1.01)}
    pairs = [(_window(), _window(latency_s=0.0109))] * 2
    latency = {f.quantity: f for f in of_latency(pairs, 1.1)}

    assert cpu["CPU per image, ratio"].met is False
    assert cpu["pairs of windows"].value == 2
    assert latency["p99, ratio"].value == pytest.approx(1.09)
    assert latency["p99, ratio: upper end of 95 %"].value == pytest.approx(1.09)
    assert latency["p99, ratio"].met is True
    assert latency["failed, more than without"].met is True


def test_a_scrape_is_compared_with_p99() -> None:
    cost = ScrapeCost(cpu_ms=2.0, duration_ms=9.0)

    found = {f.quantity: f for f in of_scrape([(_window(), _window())], cost, 1.1)}

    assert found["p99 and a whole scrape, ratio"].value == pytest.approx(1.2)
    assert found["p99 and a whole scrape, ratio"].met is False


def test_the_interval_of_p99_is_as_wide_as_the_pairs_differ() -> None:
    slow, fast = _window(latency_s=0.02), _window(latency_s=0.01)

    interval = Interval.of_p99([(fast, fast), (fast, slow)] * 4)

    assert interval.ratio == pytest.approx(2.0)
    assert interval.low == pytest.approx(1.0, abs=1.0)
    assert interval.high == pytest.approx(2.0)
