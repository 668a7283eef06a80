"""The ratio of interleaved windows, with its uncertainty."""

import math

import pytest

from load_tests.generator.loops import Outcome
from load_tests.overhead.pairs import Arm, Interval, of_cpu, of_latency, order


def _arm(cpu_ms: list[float], latency_s: float = 0.01) -> Arm:
    outcomes = [Outcome(latency_s, latency_s, 0.0, 200)] * 100
    return Arm(outcomes, cpu_ms)


def test_a_drift_of_the_machine_cancels_in_every_pair() -> None:
    interval = Interval.of([1.0, 2.0, 4.0], [1.01, 2.02, 4.04])

    assert interval.ratio == pytest.approx(1.01)
    assert interval.low == pytest.approx(interval.high)


def test_the_interval_is_students() -> None:
    interval = Interval.of([1.0, 1.0], [1.0, math.exp(0.02)])

    assert interval.ratio == pytest.approx(math.exp(0.01))
    assert interval.high == pytest.approx(math.exp(0.01 + 12.71 * 0.01), rel=1e-3)


def test_every_second_pair_is_turned_around() -> None:
    assert order(3) == [(False, True), (True, False), (False, True)]


def test_the_aims_are_judged() -> None:
    cpu = {f.quantity: f for f in of_cpu(_arm([1.0, 1.0]), _arm([1.02, 1.02]), 1.01)}
    latency = {f.quantity: f for f in of_latency(_arm([1.0]), _arm([1.0], 0.0109), 1.1)}

    assert cpu["CPU per image, ratio"].met is False
    assert latency["p99, ratio"].value == pytest.approx(1.09)
    assert latency["p99, ratio"].met is True
    assert latency["failed, more than without"].met is True
