"""The ratio of pairs of windows, with its uncertainty."""

import pytest

from load_tests.generator.loops import Outcome
from load_tests.overhead.pairs import mean_of, of_cpu, of_latency, of_scrape
from load_tests.overhead.scrape_cost import ScrapeCost
from load_tests.overhead.side_by_side import Window


def _window(cpu_ms: float = 1.0, latency_s: float = 0.01) -> Window:
    return Window([Outcome(latency_s, latency_s, 0.0, 200)] * 100, cpu_ms)


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
    assert latency["p50, ratio"].value == pytest.approx(1.09)
    assert latency["p99, ratio"].value == pytest.approx(1.09)
    assert latency["p99, ratio: upper end of 95 %"].value == pytest.approx(1.09)
    assert latency["p99, ratio"].met is True
    assert latency["failed, more than without"].met is True


def test_a_scrape_is_compared_with_p99() -> None:
    cost = ScrapeCost(cpu_ms=2.0, duration_ms=9.0)

    found = {f.quantity: f for f in of_scrape([(_window(), _window())], cost, 1.1)}

    assert found["p99 and a whole scrape, ratio"].value == pytest.approx(1.2)
    assert found["p99 and a whole scrape, ratio"].met is False
