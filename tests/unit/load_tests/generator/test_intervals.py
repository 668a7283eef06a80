"""The ratio of pairs of windows, with its uncertainty."""

import math

import numpy as np
import pytest

from load_tests.generator.intervals import Interval, Latencies, latencies
from tests.unit.load_tests.rollout.outcomes import answered, failed


def seconds(latency_s: float) -> Latencies:
    return np.full(100, latency_s)


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
    assert Interval.of_p99([(seconds(0.01), seconds(0.01))]).high is None


def test_the_interval_of_p99_is_as_wide_as_the_pairs_differ() -> None:
    slow, fast = seconds(0.02), seconds(0.01)

    interval = Interval.of_p99([(fast, fast), (fast, slow)] * 4)

    assert interval.ratio == pytest.approx(2.0)
    assert interval.low == pytest.approx(1.0, abs=1.0)
    assert interval.high == pytest.approx(2.0)


def test_requests_without_an_answer_have_no_latency() -> None:
    assert latencies([answered(0.0, 0.2), failed(0.0, status=503)]).tolist() == [0.2]
