"""One failure pauses the next start; five in a minute are too many."""

from __future__ import annotations

import pytest

from tidegate.service.fronts.failures import Failures


def test_the_pause_grows_with_each_failure_of_the_last_minute() -> None:
    failures = Failures()
    pauses = []
    for now in (0.0, 10.0, 20.0, 30.0):
        failures.add(now)
        pauses.append(failures.pause_s(now))

    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert failures.pause_s(75.0) == pytest.approx(0.2)  # the first two are long ago
    assert failures.pause_s(1000.0) == pytest.approx(0.1)


def test_five_in_a_minute_are_too_many() -> None:
    failures = Failures()
    for now in (0.0, 20.0, 30.0, 40.0):
        failures.add(now)
        assert not failures.are_too_many(now)

    failures.add(59.0)
    assert failures.are_too_many(59.0)
    assert not failures.are_too_many(60.0)
