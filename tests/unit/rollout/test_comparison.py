"""A comparison alarms, and shows that the canary is not worse, at its bounds."""

import math

import numpy as np
import pytest

from tidegate.service.rollout.comparison import NON_INFERIORITY, Comparison
from tidegate.service.rollout.evidence import Gains
from tidegate.service.rollout.groups import GROUP


def gains(groups: int, value: float = 0.1) -> Gains:
    """Return a gain of the same size for each image."""
    shape = (groups, GROUP, 1)
    return Gains(np.full(shape, value), np.ones(shape), np.zeros(1))


def evidence(groups: int) -> float:
    """Return the log evidence of these gains."""
    comparison = Comparison("errors", 0.0, math.inf)
    comparison.add(gains(groups))
    return comparison.log_evidence


@pytest.mark.parametrize(("factor", "alarm"), [(0.99, True), (1.01, False)])
def test_it_alarms_at_its_bound(factor: float, alarm: bool) -> None:
    comparison = Comparison("errors", 0.0, math.exp(evidence(3)) * factor)
    comparison.add(gains(3))

    assert comparison.alarm == alarm


def test_an_alarm_stays_if_the_evidence_falls() -> None:
    comparison = Comparison("errors", 0.0, math.exp(evidence(3)) * 0.99)
    comparison.add(gains(3))
    comparison.add(gains(20, -0.1))

    assert comparison.log_evidence < 0
    assert comparison.alarm


def test_an_alarm_is_seen_if_the_evidence_falls_within_the_same_images() -> None:
    both = gains(33, -0.2)
    both.values[:3] = 0.9
    comparison = Comparison("errors", 0.0, bound=2.0)
    comparison.add(both)

    assert comparison.log_evidence < math.log(2.0)
    assert comparison.alarm


def test_it_is_shown_to_be_not_worse_at_one_in_twenty() -> None:
    """The bound does not depend on that of the alarm."""
    shown = []
    for groups in range(1, 20):
        comparison = Comparison("errors", 0.0, math.inf, required=True)
        comparison.add(gains(groups, 0.0), gains(groups))
        shown.append((comparison.shown, comparison.log_not_worse >= -math.log(NON_INFERIORITY)))

    assert len(set(shown)) == 2
    assert all(one == other for one, other in shown)
    assert NON_INFERIORITY == 0.05


def test_without_images_nothing_is_known() -> None:
    comparison = Comparison("errors", 0.0, 100.0)

    assert comparison.mean(0) is None
    assert comparison.missing() is None
    assert comparison.baseline == 0.0
